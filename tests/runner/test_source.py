"""Source of our packages, named by its content."""

from __future__ import annotations

import bz2
import io
import os
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import source
from runner.source import PACKAGES, Archive, Source, SourceError

names = st.builds(
    "/".join,
    st.tuples(
        st.sampled_from(PACKAGES), st.text("abc_é", min_size=1, max_size=8).map(lambda name: f"{name}.py")
    ),
)
trees = st.dictionaries(names, st.binary(max_size=200), min_size=1, max_size=5)


@pytest.fixture
def packages(tmp_path: Path) -> dict[str, Path]:
    """Two small packages in a folder."""
    for package in PACKAGES:
        (tmp_path / package / "inner").mkdir(parents=True)
        (tmp_path / package / "__init__.py").write_text("one = 1\n")
        (tmp_path / package / "inner" / "table.csv").write_text("a,b\n")
    return {package: tmp_path / package for package in PACKAGES}


def named(packages: dict[str, Path]) -> str:
    return source.digest(source.read(packages))


@given(trees)
def test_what_is_packed_comes_back_and_keeps_its_name(files: dict[str, bytes]) -> None:
    archive = Source(files).archive
    assert archive.files() == files
    assert source.pack(dict(reversed(files.items()))) == archive.data


@given(trees, trees)
def test_source_has_the_same_name_only_where_it_is_the_same(
    one: dict[str, bytes], other: dict[str, bytes]
) -> None:
    assert (source.digest(one) == source.digest(other)) is (one == other)


@given(trees, st.data())
def test_one_byte_makes_another_name(files: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(files)))
    place = data.draw(st.integers(0, len(files[name])))
    changed = files[name][:place] + b"#" + files[name][place:]
    assert source.digest({**files, name: changed}) != source.digest(files)


def test_a_byte_that_moves_from_a_name_into_the_content_makes_another_name() -> None:
    assert source.digest({"runner/a": b"bc"}) != source.digest({"runner/ab": b"c"})


def test_what_python_and_editors_leave_and_times_and_modes_do_not_count(packages: dict[str, Path]) -> None:
    before = named(packages)
    top = packages["capsnet"]
    for left in (
        "__pycache__/__init__.cpython-311.pyc",
        ".cache/x.py",
        ".#routing.py",
        "routing.py~",
        "old.pyc",
    ):
        (top / left).parent.mkdir(exist_ok=True)
        (top / left).write_text("left")
    os.utime(top / "__init__.py", (1, 1))
    (top / "__init__.py").chmod(0o600)
    assert named(packages) == before
    (top / "__init__.py").write_text("one = 2\n")
    assert named(packages) != before


def test_files_of_every_kind_belong_to_it(packages: dict[str, Path]) -> None:
    assert sorted(source.read(packages)) == [
        "capsnet/__init__.py",
        "capsnet/inner/table.csv",
        "runner/__init__.py",
        "runner/inner/table.csv",
    ]


def test_what_is_too_large_to_be_source_is_refused_by_name(packages: dict[str, Path]) -> None:
    with (packages["runner"] / "weights.npz").open("wb") as file:
        file.truncate(source.LARGEST + 1)
    with pytest.raises(SourceError, match=r"^the source of runner is larger than 16 MB: .*weights\.npz$"):
        source.read(packages)


def test_the_source_here_is_that_of_the_packages_that_are_imported() -> None:
    files = source.here().files
    assert files["runner/source.py"] == Path(source.__file__).read_bytes()
    assert "capsnet/__init__.py" in files and not any("__pycache__" in name for name in files)


def test_what_was_written_out_has_the_same_name(tmp_path: Path) -> None:
    here = source.here()
    source.write(here.files, tmp_path)
    assert named({package: tmp_path / package for package in PACKAGES}) == here.digest


@pytest.mark.parametrize("harm", [lambda data: data[:-20], lambda data: b"x" + data, lambda data: b""])
def test_a_damaged_archive_is_noticed(harm) -> None:
    archive = Source({"runner/__init__.py": os.urandom(2000)}).archive
    with pytest.raises(SourceError, match="damaged"):
        Archive(archive.digest, harm(archive.data)).files()


def test_an_archive_of_other_source_is_noticed() -> None:
    one, other = Source({"runner/a.py": b"1"}), Source({"runner/a.py": b"2"})
    with pytest.raises(
        SourceError, match=f"code {one.digest} is damaged: what is kept of it is {other.digest}"
    ):
        Archive(one.digest, other.archive.data).files()


def packed(*entries: tuple[str, bytes, Mapping[str, object]]) -> bytes:
    """Return a .tar.bz2 of entries, each a name, its content, and other fields."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:bz2") as tar:
        for name, content, fields in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            for key, value in fields.items():
                setattr(entry, key, value)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def refusal(archive: bytes) -> str:
    with pytest.raises(SourceError) as caught:
        source.unpack(archive)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["runner/../../evil.py", "/runner/evil.py", "elsewhere/evil.py", "../evil.py", "", ".", "runner/\0.py"],
)
def test_an_archive_cannot_write_outside_of_the_packages(name: str) -> None:
    entry = (name, b"", {"pax_headers": {"path": name}} if "\0" in name else {})
    assert refusal(packed(entry)).endswith("which is no file of our packages")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (tarfile.DIRTYPE, "a folder"),
    ],
)
@pytest.mark.parametrize("target", ["/etc/passwd", "runner/a.py", "absent", ""])
def test_links_devices_and_pipes_in_an_archive_are_one_line(kind: bytes, said: str, target: str) -> None:
    archive = packed(("runner/a.py", b"1", {}), ("runner/b.py", b"", {"type": kind, "linkname": target}))
    assert refusal(archive) == f"the archive of the code holds 'runner/b.py', which is {said}"


def test_of_a_bomb_no_more_is_unpacked_than_source_can_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "LARGEST_TAR", 2_000_000)
    zeros = bz2.compress(bytes(20_000_000))
    assert len(zeros) < 1000
    tracemalloc.start()
    try:
        assert refusal(zeros) == "the archive of the code is larger than 2 MB unpacked"
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_a_file_that_claims_gigabytes_of_holes_is_not_read() -> None:
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**40)}
    archive = packed(("runner/a.py", b"0\n".ljust(512, b"\0"), {"pax_headers": sparse}))
    assert refusal(archive) == "the archive of the code holds 'runner/a.py', which is no plain file"


def test_a_file_larger_than_all_source_may_be_is_refused() -> None:
    large = packed(("runner/a.py", bytes(source.LARGEST + 1), {}))
    assert refusal(large) == "the archive of the code holds 'runner/a.py' of 16,000,001 bytes"


def test_what_travels_imports_nothing_but_python_and_itself() -> None:
    code = "import sys; before = {*sys.modules}; import runner.guest; print(*sorted({*sys.modules} - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in done.stdout.split()}
    assert imported - sys.stdlib_module_names == {"capsnet", "runner"}
    ours = {name for name in done.stdout.split() if name.startswith(("capsnet.", "runner."))}
    assert ours == {
        *("capsnet.locks", "capsnet.private"),
        *("runner.code_cache", "runner.guest", "runner.private", "runner.source"),
    }
