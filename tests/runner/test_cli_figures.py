"""`figures`: pictures of a run's network by its number, drawn by a child process."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

import pytest
import s3
from cli_harness import Lab
from PIL import Image

from capsnet.figures.kinds import FORMATS, KINDS
from runner import exits, remote_checkpoint, storage
from runner.commands.figures import Drawn, Format, planned
from runner.object_storage import attempt_key
from runner.objects import Objects
from runner.paths import AttemptPaths
from runner.rows import Run


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Lab]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(os.path.abspath, import_path())))
    lab = Lab(tmp_path, monkeypatch, capsys)
    lab.serve()
    yield lab
    lab.close()


def import_path() -> list[str]:
    """Import path by which child processes in any folder find this process's modules."""
    return [str(Path(__file__).parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]


@pytest.fixture
def trained(lab: Lab, tiny_checkpoint: Path, tiny_config: str) -> AttemptPaths:
    """The files of run 1, which was trained."""
    lab.ended(text=tiny_config)
    paths = lab.home.run(1, "tiny").attempt(1)
    paths.folder.mkdir(parents=True)
    shutil.copy(tiny_checkpoint, paths.checkpoint)
    return paths


def test_pictures_are_drawn_into_the_runs_folder_and_their_paths_printed(
    lab: Lab, trained: AttemptPaths
) -> None:
    done = lab.call("figures", 1, "curves", "confusion")
    assert done.code == 0
    assert done.out.split() == [str(trained.figures / "curves.png"), str(trained.figures / "confusion.png")]
    for path in done.out.split():
        with Image.open(path) as picture:
            assert picture.format == "PNG"


def test_pictures_of_a_run_in_an_object_store_lie_in_its_folder_and_in_the_store(
    lab: Lab,
    tiny_checkpoint: Path,
    tiny_config: str,
    s3_server: s3.Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = s3_server.new_url()
    monkeypatch.setenv("RUNNER_STORAGE", url)
    run, store = lab.run(lab.ended(text=tiny_config)), Objects(url)
    remote_checkpoint.Uploads(store, attempt_key(1, "tiny", 1)).upload(tiny_checkpoint)
    home = replace(lab.home, storage=url)
    with storage.of(home).checkpoint(run) as other_reader:
        done = lab.call("figures", 1, "curves")
        assert other_reader is not None and other_reader.exists()
    picture = home.run(1, "tiny").attempt(1).figures / "curves.png"
    assert (done.code, done.out) == (0, f"{picture}\n")
    assert store.get(f"{attempt_key(1, 'tiny', 1)}/figures/curves.png") == picture.read_bytes()


def test_without_a_kind_all_that_take_seconds_are_drawn(lab: Lab, trained: AttemptPaths) -> None:
    done = lab.call("figures", "tiny")
    assert done.code == 0
    assert [Path(path).stem for path in done.out.split()] == [
        "curves",
        "confusion",
        "reconstruct",
        "perturb",
        "couplings",
    ]


def test_what_cannot_be_drawn_is_said_in_one_line_and_the_others_are_drawn(
    lab: Lab, trained: AttemptPaths
) -> None:
    done = lab.process("figures", 1, "overlap", "confusion")
    assert done.code == exits.PARTLY
    assert done.out == f"{trained.figures / 'confusion.png'}\n"
    assert done.err.startswith("error: no overlap picture: needs images of two digits")
    assert done.err.count("\n") == 1


def test_a_drawing_that_a_signal_ends_is_said(lab: Lab, trained: AttemptPaths, tmp_path: Path) -> None:
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed/sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'perturb' in sys.orig_argv and 'capsnet' in sys.orig_argv:\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    path = os.pathsep.join([str(tmp_path / "killed"), os.environ["PYTHONPATH"]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        done = lab.call("figures", 1, "perturb", "curves")
    assert (done.code, done.out) == (exits.PARTLY, f"{trained.figures / 'curves.png'}\n")
    assert done.err == "drawing perturb was ended by signal 9\n"


@pytest.fixture
def both(lab: Lab, trained: AttemptPaths, tiny_checkpoint: Path, tiny_config: str) -> list[AttemptPaths]:
    """The files of runs 1 and 2, which were trained and have one name."""
    lab.ended(text=tiny_config)
    paths = lab.home.run(2, "tiny").attempt(1)
    paths.folder.mkdir(parents=True)
    shutil.copy(tiny_checkpoint, paths.checkpoint)
    return [trained, paths]


def words_of(svg: Path) -> list[str]:
    """The texts of an SVG."""
    return re.findall(r"<!-- (.*) -->", svg.read_text())


def test_the_curves_of_several_runs_are_one_picture_in_the_first_ones_folder(
    lab: Lab, both: list[AttemptPaths]
) -> None:
    done = lab.call("figures", 1, "curves", 2, "--format", "svg", "--dpi", 200)
    picture = both[0].figures / "curves-compared.svg"
    assert (done.code, done.out) == (0, f"{picture}\n")
    assert {"run 1 (tiny)", "run 2 (tiny)"} <= set(words_of(picture))


def test_other_kinds_are_drawn_of_each_run() -> None:
    runs = [Drawn(cast(Run, number), Path()) for number in (3, 4)]
    jobs = [(job.kind, [one.run for one in job.runs]) for job in planned(["curves", "confusion"], runs)]
    assert jobs == [("curves", [3, 4]), ("confusion", [3]), ("confusion", [4])]


def test_an_output_is_the_file_of_one_picture(lab: Lab, both: list[AttemptPaths]) -> None:
    for words in ((1, "perturb", "confusion"), (1, 2, "confusion"), (1, 2)):
        done = lab.call("figures", *words, "--output", "a.png")
        assert (done.code, done.out) == (exits.USAGE, "")
        assert done.err == (
            "--output a.png is for one picture, or for all of one run; these are 2: "
            "leave it out, or name one run and one kind\n"
        )
    done = lab.call("figures", 1, "confusion", "--output", "/nonexist/dir/a.png")
    assert (done.code, done.out) == (exits.USAGE, "")
    assert not Path("/nonexist").exists()


def test_the_help_says_which_pictures_mlflow_gets(lab: Lab) -> None:
    said = " ".join(lab.call("figures", "--help").out.split())
    assert "MLflow gets what is in the folder when the run ends; what is drawn later stays there" in said


def test_a_run_that_has_saved_nothing_says_so(lab: Lab) -> None:
    number = lab.submit()
    done = lab.call("figures", number)
    assert (done.code, done.err) == (exits.USAGE, "run 1 is QUEUED and has saved nothing yet to draw\n")


def test_what_is_no_run_and_no_picture_names_the_pictures_there_are(lab: Lab) -> None:
    lab.submit()
    done = lab.call("figures", 1, "perturbe")
    assert done.code == exits.USAGE
    assert done.err == (f"there is no run and no picture 'perturbe': the pictures are {', '.join(KINDS)}\n")


def test_the_formats_offered_are_those_there_are() -> None:
    assert get_args(get_args(get_args(Format)[0])[0]) == FORMATS
