"""Folders of compilers' caches, whose files later runs execute: no other user can write to them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from other_user import as_another_user, needs_another_user, shared_folder
from patience import PATIENCE
from torch._inductor.runtime.runtime_utils import default_cache_dir  # pyright: ignore[reportPrivateImportUsage]

from capsnet import caches
from capsnet.native import NativeError, library
from capsnet.private import NotPrivate
from capsnet.training import train

DEFAULT = "torchinductor_"  # what PyTorch calls its own choice, with the user's name


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own, and no folder named for compilers."""
    for variable in caches.COMPILERS:
        monkeypatch.setenv(variable, "set here so that it is put back at the end")
        monkeypatch.delenv(variable)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / "cache" / "capsnet"


def test_compilers_keep_their_work_in_private_folders(own_places: Path) -> None:
    caches.secure_compilers()
    for variable, name in caches.COMPILERS.items():
        assert os.environ[variable] == str(own_places / name)
        assert (own_places / name).stat().st_mode & 0o777 == 0o700
    (headers,) = own_places.parents[1].glob(f"{DEFAULT}*")  # which PyTorch keeps there in any case
    assert headers.stat().st_mode & 0o777 == 0o700


def test_pytorchs_compiler_never_chooses_a_folder_itself_whatever_the_umask(own_places: Path) -> None:
    """Its import, of which the first optimizer is enough, makes the folder."""
    code = f"""
import os, tempfile
os.umask(0)
tempfile.tempdir = {str(own_places.parents[1])!r}
from capsnet import execution
from capsnet.config import Config
execution.apply(execution.resolve(Config(compile=True, use_cuda=False)))
import torch._dynamo
print(os.environ["TORCHINDUCTOR_CACHE_DIR"])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert done.stdout.strip() == str(own_places / "inductor")
    (headers,) = own_places.parents[1].glob(f"{DEFAULT}*")
    for folder in (own_places, own_places / "inductor", headers):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_what_pytorch_has_chosen_before_is_not_taken_for_the_users_wish(
    own_places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())
    caches.secure_compilers()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(own_places / "inductor")


def test_a_folder_that_the_user_names_is_used_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "mine"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(named))
    caches.secure_compilers()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(named)
    named.chmod(0o777)
    with pytest.raises(NotPrivate, match="set TORCHINDUCTOR_CACHE_DIR to a folder of your own"):
        caches.secure_compilers()


def test_where_the_home_cannot_be_written_a_process_has_a_cache_of_its_own_until_it_ends(
    tmp_path: Path,
) -> None:
    (tmp_path / "cache").write_text("a file, where there should be a folder")
    code = "from capsnet import caches; print(caches.folder()); assert caches.folder().is_dir()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert done.stdout.strip().startswith("/") and not Path(done.stdout.strip()).exists()


@needs_another_user
@pytest.mark.parametrize("theirs", ["inductor", "headers"])
def test_a_run_is_not_compiled_from_what_another_user_has_made_and_says_what_to_do(
    tiny_config, tiny_splits, monkeypatch: pytest.MonkeyPatch, theirs: str
) -> None:
    with shared_folder() as shared:
        monkeypatch.setattr("tempfile.tempdir", str(shared))
        if theirs == "inductor":
            place, remedy = shared / "named", "set TORCHINDUCTOR_CACHE_DIR to"
            monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(place))
        else:
            place, remedy = Path(default_cache_dir()), "set TMPDIR to"
        assert as_another_user("mkdir -m 777 $1", place).returncode == 0
        with pytest.warns(UserWarning, match=f"{place} belongs to another user: .*{remedy}"):
            *_, last = train(tiny_config(num_epochs=1, compile=True), splits=tiny_splits)
        assert last.snapshot()["execution"]["compile"] is False
        assert not list(place.iterdir())


@needs_another_user
def test_a_library_that_another_user_may_have_made_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "answer.c"
    source.write_text("int answer(void) { return 42; }")
    with shared_folder() as shared:
        monkeypatch.setenv("XDG_CACHE_HOME", str(shared))
        assert as_another_user("mkdir -m 777 $1/capsnet", shared).returncode == 0
        with pytest.raises(NativeError, match="belongs to another user: set XDG_CACHE_HOME to"):
            library(source)
