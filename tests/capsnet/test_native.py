"""C that is compiled where it runs: by real compilers, in real folders."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE

from capsnet import caches, native
from capsnet.native import NativeError, library

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder in which libraries are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    return tmp_path / "cache" / "capsnet"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return written(tmp_path / "answer.c", "int answer(void) { return 42; }")


@pytest.fixture
def compilations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that gets a line for each time that the compiler is called to make a library."""
    log, compiler = tmp_path / "log", tmp_path / "counting"
    log.touch()
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *" -o "*) echo made >> {log};; esac\nexec cc "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    return log


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_library_is_compiled_once(kept: Path, source: Path, compilations: Path) -> None:
    compilations_of_two_loads = [(library(source).answer(), compilations.read_text()) for _ in range(2)]
    assert compilations_of_two_loads == [(42, "made\n"), (42, "made\n")]
    assert len(list(kept.iterdir())) == 1


def test_another_text_is_another_library(kept: Path, source: Path) -> None:
    first = library(source)
    second = library(written(source, "int answer(void) { return 43; }"))
    assert (first.answer(), second.answer()) == (42, 43)
    assert len(list(kept.iterdir())) == 2


def test_the_compiler_may_be_named_with_options(
    kept: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(source, "int answer(void) { return ANSWER; }")
    monkeypatch.setenv("CC", "cc -DANSWER=44")
    assert library(source).answer() == 44
    monkeypatch.setenv("CC", "cc -DANSWER=45")
    assert library(source).answer() == 45


@pytest.mark.parametrize("left", [0, 100, -1], ids=["nothing", "the beginning", "all but the end"])
def test_a_broken_file_is_compiled_again(kept: Path, source: Path, compilations: Path, left: int) -> None:
    library(source)
    (path,) = kept.iterdir()
    path.rename(path.with_suffix(".whole"))  # which stays loaded
    whole = path.with_suffix(".whole").read_bytes()
    path.write_bytes(whole[:left])
    assert library(source).answer() == 42
    assert compilations.read_text() == "made\nmade\n"
    assert native._is_whole(path)


def test_processes_that_compile_at_once_do_not_disturb_each_other(kept: Path, source: Path) -> None:
    code = "import sys, pathlib, capsnet.native; capsnet.native.library(pathlib.Path(sys.argv[1])).answer()"
    processes = [subprocess.Popen([sys.executable, "-c", code, str(source)]) for _ in range(3)]
    assert [process.wait(timeout=PATIENCE) for process in processes] == [0, 0, 0]
    (path,) = kept.iterdir()  # and no half of one beside it
    assert native._is_whole(path)


def test_without_a_folder_to_keep_it_in_it_is_compiled_all_the_same(
    kept: Path, source: Path, compilations: Path
) -> None:
    written(kept.parent, "a file, where there should be a folder")
    assert [library(source).answer() for _ in range(2)] == [42, 42]
    assert compilations.read_text() == "made\n"  # and kept for as long as this process lives


@pytest.mark.parametrize(
    ("text", "why"),
    [("int answer(void) { return forty_two; }", "error: .*forty_two"), ("int x = ;", "error: expected expr")],
)
def test_what_cannot_be_compiled_is_said_in_one_line(kept: Path, source: Path, text: str, why: str) -> None:
    with pytest.raises(NativeError, match=why) as raised:
        library(written(source, text))
    assert "\n" not in str(raised.value)


def test_what_cannot_be_loaded_is_said_too(kept: Path, source: Path) -> None:
    """A symbol is undefined, for example, if PyTorch brings no OpenMP whose threads the library could use."""
    text = "extern int of_nobody(void); int answer(void) { return of_nobody(); }"
    with pytest.raises(NativeError, match="undefined symbol: of_nobody"):
        library(written(source, text))


def test_a_compiler_that_is_not_there_is_named(
    kept: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "/no/such/compiler")
    with pytest.raises(NativeError, match="/no/such/compiler"):
        library(source)
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(source.parent))
    with pytest.raises(NativeError, match="no C compiler: none of cc, gcc, clang, and CC is not set"):
        library(source)


def test_a_compiler_that_says_nothing_but_fails_is_an_error(
    kept: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", shutil.which("false") or "false")
    with pytest.raises(NativeError, match="false: exit code 1"):
        library(source)


def test_it_is_kept_in_the_home_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    assert caches.folder() == tmp_path / ".cache" / "capsnet"
