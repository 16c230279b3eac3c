"""The pictures of the README and the docs are those that the code of today draws."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pictures
import pytest
from pictures import PICTURES, ROOT, Picture
from PIL import Image

from capsnet.cli import parser

ROTATE = next(picture for picture in PICTURES if picture.name == "rotate")


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_no_picture_is_older_than_the_code_that_draws_it(picture: Picture) -> None:
    assert pictures.staleness(picture) is None


def test_every_picture_that_the_docs_show_is_drawn_by_the_script_and_none_besides() -> None:
    texts = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    shown = {
        (text.parent / link).resolve()
        for text in texts
        for link in re.findall(r"!\[[^]]*\]\(([^)]+\.png)\)", text.read_text(encoding="utf-8"))
    }
    assert shown == {picture.file() for picture in PICTURES} == set((ROOT / "docs").glob("*.png"))


def test_the_commands_that_draw_are_understood() -> None:
    commands = [pictures.TRAINING, *(command for picture in PICTURES for command in picture.commands)]
    of_capsnet = [shlex.split(command)[3:] for command in commands if " -m capsnet " in command]
    assert len(of_capsnet) == 3
    for words in of_capsnet:
        parser().parse_args(words)
    for command in commands:
        files = [word for word in shlex.split(command) if word.endswith((".py", ".yaml"))]
        assert all(Path(file.format(root=ROOT)).is_absolute() or (ROOT / file).exists() for file in files)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the drawing code and of a picture, which a test may change."""
    shutil.copytree(ROOT / "capsnet/figures", tmp_path / "capsnet/figures", ignore=lambda *_: {"__pycache__"})
    (tmp_path / "docs").mkdir()
    shutil.copy(ROTATE.file(), ROTATE.file(tmp_path))
    return tmp_path


def edit(copy: Path, module: str, old: str, new: str) -> None:
    file = copy / f"capsnet/figures/{module}.py"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_change_of_the_code_that_draws_a_picture_is_told_with_the_command(copy: Path) -> None:
    edit(copy, "style", "GREY", "GRAY")  # which rotate.py only imports
    assert pictures.staleness(ROTATE, copy) == (
        "docs/rotate.png is older than the code that draws it: python docs/pictures.py rotate"
    )
    ROTATE.file(copy).unlink()
    assert pictures.staleness(ROTATE, copy) == "docs/rotate.png is missing: python docs/pictures.py rotate"


def test_words_imports_and_the_code_of_other_pictures_make_none_stale(copy: Path) -> None:
    edit(copy, "rotate", '"""', '"""Otherwise said: ')
    edit(copy, "rotate", "def draw(", "# a comment\ndef draw(")
    edit(copy, "rotate", "import torch\n", "import math\nimport torch\n")
    edit(copy, "confusion", "NARROW = ", "NARROW = 1 + ")
    assert pictures.staleness(ROTATE, copy) is None


def test_of_a_picture_of_measured_times_only_the_function_that_draws_counts(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    code = tmp_path / "bench/speed.py"
    code.write_text("def measure():\n    return 1\n\n\ndef draw():\n    return 2\n")
    before = pictures.digest("bench.speed:draw", tmp_path)
    code.write_text(code.read_text().replace("return 1", "return 3"))
    assert pictures.digest("bench.speed:draw", tmp_path) == before
    code.write_text(code.read_text().replace("return 2", "return 3"))
    assert pictures.digest("bench.speed:draw", tmp_path) != before


def test_a_picture_that_is_drawn_anew_carries_its_digest_and_keeps_its_pixels(copy: Path) -> None:
    file = ROTATE.file(copy)
    pixels = np.asarray(Image.open(file))
    Image.fromarray(pixels).save(file)  # as whatever draws it leaves it
    assert pictures.staleness(ROTATE, copy) is not None
    pictures.stamp(ROTATE, copy)
    assert pictures.staleness(ROTATE, copy) is None
    with Image.open(file) as drawn:
        assert drawn.info["Drawn-By"] == "python docs/pictures.py rotate"
        assert np.array_equal(np.asarray(drawn), pixels)


TRAIN = "import pathlib; pathlib.Path('out/mnist_small').mkdir(parents=True); print('trained')"
DRAW = "from PIL import Image; import os, sys; file, network = sys.argv[1:]; "
DRAW += "Image.new('RGB', (9, 1 + len(os.listdir(network)))).save(file)"


def test_the_script_trains_draws_and_stamps_and_says_which_picture_failed(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    drawn = replace(ROTATE, commands=(f"python -c {shlex.quote(DRAW)} {{picture}} {{network}}",))
    failing = replace(ROTATE, name="failing", commands=("python -c 'raise SystemExit(3)'",))
    monkeypatch.setattr(pictures, "PICTURES", [drawn])
    monkeypatch.setattr(pictures, "TRAINING", f"python -c {shlex.quote(TRAIN)}")
    edit(copy, "rotate", "MEASURED = 24", "MEASURED = 23")
    for words, exit_code, said in (
        (
            ["--check"],
            1,
            "docs/rotate.png is older than the code that draws it: python docs/pictures.py rotate",
        ),
        (["rotate"], 0, "trained"),
        (["--check"], 0, ""),
        ([], 0, "no picture is older than the code that draws it"),
    ):
        assert pictures.main(words, copy) == exit_code
        assert said in capfd.readouterr().out.splitlines() or not said
    with Image.open(drawn.file(copy)) as picture:
        assert picture.size == (9, 1), "of the network that was trained"
    monkeypatch.setattr(pictures, "PICTURES", [drawn, failing])
    assert pictures.main([], copy) == 1
    assert capfd.readouterr().err == "docs/failing.png: a command failed (3)\n"
