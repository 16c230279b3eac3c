"""`python -m capsnet perturb` and the other pictures, as a user meets them."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import small_mnist
from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from capsnet import checkpoint, multi_mnist
from capsnet.cli import main, parser
from capsnet.commands import figures
from capsnet.config import Config
from capsnet.figures import output, rotate, subject
from capsnet.figures.kinds import KINDS, MOTIONS
from capsnet.training import train

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = {
    "name": "tiny",
    "num_epochs": 1,
    "batch_size": 16,
    "threads": 1,
    "use_cuda": False,
    "dataset": {"name": "digits", "size": 12, "validation": 20},
    "model": {"conv_channels": 8, "kernel_size": 5, "primary_types": 3, "decoder": {"hidden": [16]}},
}
PAIRS = """\
num_epochs: 1
batch_size: 32
threads: 1
dataset: {name: multi_mnist, root: data}
model: {conv_channels: 4, primary_types: 2, decoder: {hidden: [8]}}
"""
# Settings that make a command quick.
FEW = {"reconstruct": ["--images", "3"], "rotate": ["--images", "4"], "couplings": ["--images", "4"]}
FEW["primary"] = ["--steps", "3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a run of one epoch."""
    folder = tmp_path_factory.mktemp("run")
    *_, last = train(Config.model_validate(TINY))
    checkpoint.save(last.snapshot(), folder / "checkpoint.pt")
    return folder


@pytest.fixture
def run(trained, tmp_path, monkeypatch) -> Path:
    """A copy of it, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    for file in trained.iterdir():
        (tmp_path / "run" / file.name).hardlink_to(file)
    return Path("run")


def error_of(capsys, *words: object) -> str:
    """Run a command with a user's mistake and return its one line of error."""
    assert main([str(word) for word in words]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    return printed.err.removeprefix("error: ").rstrip()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("overlap", "rotate")])
def test_a_picture_is_written_beside_the_checkpoint_and_its_path_printed(run, capsys, kind):
    assert main([kind, "run", *FEW.get(kind, [])]) == 0
    assert capsys.readouterr().out == f"run/figures/{kind}.png\n"
    with Image.open(run / "figures" / f"{kind}.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 200
    assert [file.name for file in (run / "figures").iterdir()] == [f"{kind}.png"]


def test_an_image_in_motion_gives_an_animation_and_a_chart(run, capsys):
    assert main(["rotate", "run/checkpoint.pt", "--map", "shear", *FEW["rotate"]]) == 0
    assert capsys.readouterr().out.splitlines() == ["run/figures/shear.gif", "run/figures/shear.png"]
    with GifImageFile(run / "figures/shear.gif") as gif:
        assert (gif.format, gif.n_frames) == ("GIF", 64)


def test_the_name_of_the_output_says_which_of_the_two_is_wanted(run, capsys):
    Path("there").mkdir()
    assert main(["rotate", "run", "--output", "there/turned.GIF"]) == 0
    assert capsys.readouterr().out == "there/turned.GIF\n"
    with GifImageFile("there/turned.GIF") as gif:
        assert (gif.format, gif.n_frames) == ("GIF", 72)
    assert not (run / "figures").exists()


def test_the_checkpoint_can_be_named_in_two_ways_and_the_output_as_one_likes(run, capsys):
    main(["perturb", "--model-path", "run/checkpoint.pt", "--output", "a.png", "--sample", "3"])
    main(["perturb", "run/checkpoint.pt", "--model-path", "run/checkpoint.pt", "--output", "b.png"])
    main(["perturb", "run/checkpoint.pt", "--output", "c.png", "--sample", "3"])
    assert capsys.readouterr().out.split() == ["a.png", "b.png", "c.png"]
    assert Path("a.png").read_bytes() == Path("c.png").read_bytes()


def test_the_seed_decides_what_is_left_to_chance(run):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert main(["perturb", "run", "--seed", str(seed), "--output", f"{name}.png"]) == 0
    a, b, c = (Path(f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c


def test_a_style_of_the_users_changes_nothing(run):
    import matplotlib

    before = matplotlib.rcParams["axes.facecolor"]
    main(["confusion", "run", "--output", "plain.png"])
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30, "image.cmap": "jet"}):
        main(["confusion", "run", "--output", "styled.png"])
        assert matplotlib.rcParams["font.size"] == 30
    assert Path("plain.png").read_bytes() == Path("styled.png").read_bytes()
    assert matplotlib.rcParams["axes.facecolor"] == before


def test_figures_draws_all_that_take_seconds(run, capsys):
    assert main(["figures", "run", "--output", "drawn"]) == 0
    names = [Path(line).name for line in capsys.readouterr().out.splitlines()]
    assert names == ["curves.png", "confusion.png", "reconstruct.png", "perturb.png", "couplings.png"]
    assert sorted(names) == sorted(file.name for file in Path("drawn").iterdir())


def test_a_checkpoint_of_its_own_name_has_a_folder_of_its_own(run, capsys):
    (run / "checkpoint.pt").rename(run / "mine.pt")
    main(["confusion", "run/mine.pt"])
    assert capsys.readouterr().out == "run/mine.figures/confusion.png\n"


def test_curves_need_the_table_of_metrics_only(run, capsys):
    (run / "checkpoint.pt").unlink()
    assert main(["curves", "run"]) == main(["curves", "run/history.csv"]) == 0
    assert capsys.readouterr().out == "run/figures/curves.png\n" * 2


def test_curves_need_no_configuration_that_this_version_can_read(run, capsys):
    state = checkpoint.load(run / "checkpoint.pt")
    state["config"]["of_another_version"] = 1
    checkpoint.save(state, Path("other.pt"))
    assert main(["curves", "other.pt", "--output", "a.svg"]) == 0
    assert "tiny" in words_of(Path("a.svg")).splitlines(), "not which model and data set"
    capsys.readouterr()
    assert error_of(capsys, "confusion", "other.pt").startswith("other.pt: ")


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["perturb", "7"], "figures 7 perturb"),
        (["overlap", "--model-path", "7"], "figures 7 overlap"),
        (["curves", "7"], "figures 7 curves"),
        (["figures", "7-9"], "figures 7-9"),
        (["confusion", "runs/7-tiny"], "figures 7 confusion"),
    ],
)
def test_the_number_of_a_run_is_refused_with_the_command_that_works(run, capsys, words, command):
    Path("runs/7-tiny/attempts/1").mkdir(parents=True)
    said = error_of(capsys, *words)
    assert said == f"there is no checkpoint {words[-1]}/checkpoint.pt; of a run: `python -m runner {command}`"


def test_the_curves_of_a_run_whose_checkpoint_is_gone_are_drawn(run, capsys):
    Path("runs/7-tiny/attempts/1").mkdir(parents=True)
    (run / "history.csv").rename("runs/7-tiny/history.csv")
    assert main(["curves", "runs/7-tiny"]) == 0
    assert capsys.readouterr().out == "runs/7-tiny/figures/curves.png\n"


def test_overlap_takes_the_network_of_multi_mnist_by_its_folder_and_by_its_file(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(multi_mnist, "TEST_PAIRS", 12)
    small_mnist.write(tmp_path / "data")
    Path("pairs.yaml").write_text(PAIRS)
    assert main(["train", "pairs.yaml"]) == 0
    for place in ("out/pairs", "out/pairs/", "out/pairs/checkpoint.pt"):
        capsys.readouterr()
        assert main(["overlap", place, "--images", "3"]) == 0
        assert capsys.readouterr().out == "out/pairs/figures/overlap.png\n"


def test_a_folder_that_is_a_link_to_one_that_is_not_there_yet_is_made(run, capsys):
    (run / "figures").symlink_to("attempts/1/figures")
    assert main(["confusion", "run"]) == 0
    assert (run / "attempts/1/figures/confusion.png").exists()


def test_an_output_that_cannot_be_one_is_known_before_anything_is_read_or_computed(run, capsys, monkeypatch):
    monkeypatch.setattr(figures, "load_trained", None)
    Path("file").write_text("")
    endings = "the name of this picture ends in .png, .pdf or .svg"
    for name, message in (
        ("run", "run is a folder: name a file in it, as in run/figure.png"),
        ("a.jpg", f"a.jpg: {endings}, as in a.png"),
        ("a.txt", f"a.txt: {endings}, as in a.png"),
        ("a", f"a: {endings}, as in a.png"),
        ("a.gif", f"a.gif: {endings}, as in a.png"),
        ("file/a.png", "file/a.png cannot be written: file is a file"),
    ):
        assert error_of(capsys, "confusion", "run", "--output", name) == message
    assert error_of(capsys, "rotate", "run", "--output", "a.jpg") == (
        "a.jpg: the name of this picture ends in .png, .pdf, .svg or .gif, as in a.png"
    )


@pytest.mark.parametrize("name", ["new/a.png", "/nonexist/dir/a.png", "new/er/a.pdf"])
def test_a_folder_that_is_not_there_is_an_error_and_no_new_folder(run, capsys, name):
    message = f"{name} cannot be written: there is no folder {Path(name).parent}; make it, or name another"
    for kind in ("confusion", "curves", "rotate"):
        assert error_of(capsys, kind, "run", "--output", name) == message
    assert not Path("new").exists() and not Path("/nonexist").exists()


def test_of_all_pictures_the_folder_is_made_but_not_the_one_it_lies_in(run, capsys):
    message = "new/er cannot be written: there is no folder new; make it, or name another"
    assert error_of(capsys, "figures", "run", "--output", "new/er") == message
    assert not Path("new").exists()
    assert main(["figures", "run", "--output", "new/"]) == 0
    assert Path("new/confusion.png").exists()


HEADS = {"png": b"\x89PNG\r\n", "pdf": b"%PDF-", "svg": b"<?xml"}


@pytest.mark.parametrize("form", HEADS)
@pytest.mark.parametrize("kind", ["perturb", "curves"])
def test_a_picture_has_the_format_of_its_name_and_the_same_bytes_when_it_is_drawn_again(run, kind, form):
    for name in ("a", "b"):
        assert main([kind, "run", "--output", f"{name}.{form.upper()}"]) == 0
    first, second = (Path(f"{name}.{form.upper()}").read_bytes() for name in "ab")
    assert first == second and first.startswith(HEADS[form])
    today = str(date.today()).encode()
    for word in (b"Software", b"CreationDate", b"Producer", b"dc:date", b"matplotlib.org", today):
        assert word not in first


def test_a_pdf_holds_its_letters_as_truetype(run):
    main(["perturb", "run", "--output", "a.pdf"])
    content = Path("a.pdf").read_bytes()
    assert b"/FontFile2" in content and b"/Type3" not in content


def test_dots_are_those_of_a_png_or_of_the_images_in_a_pdf(run):
    main(["curves", "run", "--output", "a.png"])
    main(["curves", "run", "--output", "b.png", "--dpi", "300"])
    with Image.open("a.png") as a, Image.open("b.png") as b:
        assert (2 * a.width, 2 * a.height) == pytest.approx(b.size, abs=1)
        assert round(b.info["dpi"][0]) == 300
    for dpi in ("50", "200"):
        main(["perturb", "run", "--output", f"{dpi}.pdf", "--dpi", dpi])
    assert Path("200.pdf").stat().st_size > 1.5 * Path("50.pdf").stat().st_size


def test_the_format_of_pictures_whose_files_have_no_names_can_be_chosen(run, capsys):
    assert main(["rotate", "run", "--format", "pdf", *FEW["rotate"]]) == 0
    assert capsys.readouterr().out.split() == ["run/figures/rotate.gif", "run/figures/rotate.pdf"]
    assert (run / "figures/rotate.pdf").read_bytes().startswith(b"%PDF-")
    assert main(["figures", "run", "--format", "svg", "--output", "all"]) == 0
    assert {file.suffix for file in Path("all").iterdir()} == {".svg"}


def test_options_that_contradict_the_output_are_errors(run, capsys):
    message = "a.pdf is no file of --format svg: leave one of the two out"
    assert error_of(capsys, "confusion", "run", "--output", "a.pdf", "--format", "svg") == message
    message = "--dpi 300 is of charts: a.gif has pixels of its own"
    assert error_of(capsys, "rotate", "run", "--output", "a.gif", "--dpi", "300") == message
    for dpi in ("10", "5000", "x"):
        with pytest.raises(SystemExit) as ended:
            main(["confusion", "run", "--dpi", dpi])
        assert ended.value.code == 2


@pytest.fixture
def second(run) -> Path:
    """Another run, of the same name."""
    Path("other").mkdir()
    for file in run.iterdir():
        if file.is_file():
            (Path("other") / file.name).hardlink_to(file)
    return Path("other")


def words_of(svg: Path) -> str:
    """The texts of an SVG: its letters are drawn as lines, and each text stands beside them as a comment."""
    return "\n".join(re.findall(r"<!-- (.*) -->", svg.read_text()))


def test_the_curves_of_several_runs_are_one_picture_in_the_first_ones_folder(run, second, capsys):
    assert main(["curves", "run", "other/history.csv"]) == 0
    assert capsys.readouterr().out == "run/figures/curves-compared.png\n"
    assert main(["curves", "run", "other", "--output", "a.svg"]) == 0
    assert {"tiny (run)", "tiny (other)"} <= set(words_of(Path("a.svg")).splitlines())


def test_labels_are_what_pictures_call_the_runs(run, second, capsys):
    for label in ("run 3 (a)", "$\\nothing$", "_a"):
        assert main(["curves", "run", "other", "--label", "b", "--label", label, "--output", "a.svg"]) == 0
        assert {"b", label} <= set(words_of(Path("a.svg")).splitlines())
    assert main(["perturb", "run", "--label", "run 3 (a)", "--output", "b.svg"]) == 0
    origin = "run 3 (a) · capsnet, 3 routing iterations · digits · epoch 1"
    assert origin in words_of(Path("b.svg"))
    capsys.readouterr()
    message = "1 labels for 2 checkpoints: give --label once for each"
    assert error_of(capsys, "curves", "run", "other", "--label", "a") == message


def test_the_best_weights_are_named_in_the_heading(run):
    assert main(["perturb", "run", "--best", "--output", "a.svg"]) == 0
    assert "epoch 1, best on validation" in words_of(Path("a.svg"))


def test_a_label_in_a_script_that_the_font_lacks_is_drawn_without_a_warning(run, capsys):
    assert main(["curves", "run", "--label", "実験", "--output", "a.pdf"]) == 0
    assert capsys.readouterr().err == ""


def test_the_backend_and_the_style_that_the_environment_names_change_nothing(run):
    """In a process of its own, as matplotlib reads them once."""
    Path("style").mkdir()
    Path("style/matplotlibrc").write_text("backend: TkAgg\nfont.size: 30\naxes.facecolor: black\n")
    backend = "module://matplotlib_inline.backend_inline"  # as notebooks set it, for commands too
    environment = os.environ | {"MPLBACKEND": backend, "MATPLOTLIBRC": str(Path("style").absolute())}
    code = (
        "import os, sys\n"
        "from capsnet.cli import main\n"
        "code = main(['curves', 'run', '--output', 'set.png'])\n"
        "loaded = [name for name in sys.modules if name.startswith(('matplotlib.pyplot', 'tkinter'))]\n"
        "print(code, loaded, os.environ['MPLBACKEND'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == (f"set.png\n0 [] {backend}\n", "")
    main(["curves", "run", "--output", "plain.png"])
    assert Path("set.png").read_bytes() == Path("plain.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["perturb"], "name a checkpoint, as in: python -m capsnet perturb out/quickstart"),
        (["perturb", "nowhere"], "there is no checkpoint nowhere/checkpoint.pt"),
        (["curves", "nowhere"], "there is no checkpoint nowhere/checkpoint.pt"),
        (["curves", "nowhere.csv"], "nowhere.csv: No such file or directory"),
        (["perturb", "run", "--model-path", "x"], "CHECKPOINT is run and --model-path is x: name one"),
        (["perturb", "run", "--sample", "360"], "--sample 360: there are 360 test images, from 0 on"),
        (["perturb", "run", "--digit", "11"], "--digit 11: no test image shows that class (they are 0 to 9)"),
        (
            ["overlap", "run"],
            "no overlap picture: needs images of two digits, as of dataset.name: multi_mnist; this is digits",
        ),
        (
            ["perturb", "run", "--data", "x"],
            "--data x: the data set digits lies in no folder: leave it out",
        ),
    ],
)
def test_what_cannot_be_drawn_is_one_line(run, capsys, words, message):
    assert error_of(capsys, *words) == message
    assert not Path("nowhere").exists() and not (run / "figures").exists()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="takes a folder that lets nobody make a file")
def test_a_folder_that_takes_no_file_is_known_before_anything_is_computed(run, capsys, monkeypatch):
    monkeypatch.setattr(subject.Subject, "answers", None)
    error = error_of(capsys, "confusion", "run", "--output", "/proc/a.png")
    assert error.startswith("/proc/a.png cannot be written: ")
    error = error_of(capsys, "figures", "run", "--output", "/proc/new")
    assert error.startswith("/proc/new/curves.png cannot be written: ")


@pytest.mark.parametrize("name", ["n" * 300 + ".png", "n" * 248 + ".png", "n" * 300 + "/a.png"])
def test_a_name_that_is_too_long_is_known_before_anything_is_computed(run, capsys, monkeypatch, name):
    monkeypatch.setattr(subject.Subject, "answers", None)
    error = error_of(capsys, "confusion", "run", "--output", name)
    assert error == f"{name} cannot be written: File name too long"


def test_a_folder_that_cannot_be_made_is_one_line(run, capsys):
    name = "n" * 300
    assert (
        error_of(capsys, "figures", "run", "--output", name)
        == f"{name} cannot be written: File name too long"
    )


def test_two_may_write_a_picture_at_once(tmp_path, monkeypatch):
    import capsnet.files

    real, path = capsnet.files.os.fsync, tmp_path / "a.png"

    def slow(descriptor: int) -> None:
        monkeypatch.setattr(capsnet.files.os, "fsync", real)
        output.save(b"of the other", path)  # while this one is not yet in its place
        real(descriptor)

    monkeypatch.setattr(capsnet.files.os, "fsync", slow)
    output.save(b"of this one", path)
    assert path.read_bytes() == b"of this one"
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_name_is_none(run, capsys):
    for kind in ("confusion", "rotate", "curves", "figures"):
        message = "--output is empty: give it a name, or leave it out"
        assert error_of(capsys, kind, "run", "--output", "") == message
    assert not (run / "figures").exists()


def test_a_folder_of_pictures_is_not_named_like_a_picture(run, capsys):
    message = "a.PNG: name a folder, as in a: there are several pictures"
    assert error_of(capsys, "figures", "run", "--output", "a.PNG") == message
    assert not Path("a.PNG").exists()


def test_an_animation_takes_no_number_of_images(run, capsys):
    message = "--images 4 is of the chart: a.gif shows one image only"
    assert error_of(capsys, "rotate", "run", "--output", "a.gif", "--images", "4") == message


def test_what_leaves_nothing_to_chance_takes_no_seed(capsys):
    for kind in ("confusion", "curves"):
        with pytest.raises(SystemExit) as ended:
            parser().parse_args([kind, "run", "--seed", "3"])
        assert ended.value.code == 2
        assert "unrecognized arguments: --seed 3" in capsys.readouterr().err


def test_the_motions_offered_are_those_there_are():
    assert tuple(rotate.MOTIONS) == MOTIONS


def test_a_table_that_holds_no_metrics_is_an_error(run, capsys):
    Path("notes.csv").write_text("a,b\n1,x\n")
    assert error_of(capsys, "curves", "notes.csv").startswith("notes.csv holds no metrics by epoch")
    Path("notes.csv").write_text("a,b\n1,2\n")
    assert error_of(capsys, "curves", "notes.csv") == "notes.csv holds no metrics by epoch"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("epoch,train/loss\n1,2,3\n", ": a line has more fields than names"),
        (f"epoch,train/loss\n1,{'2' * 200_000}\n", ": field larger than field limit (131072)"),
        (f"epoch,train/loss\n{'1' * 400},2\n", ""),
    ],
)
def test_a_table_that_is_none_of_ours_is_one_line(run, capsys, text, why):
    Path("notes.csv").write_text(text)
    assert error_of(capsys, "curves", "notes.csv") == f"notes.csv holds no metrics by epoch{why}"


@pytest.mark.parametrize(
    "text",
    [
        "epoch,train/loss,validation/accuracy\n1,nan,nan\n2,inf,0.5\n3,0.1,nan\n",
        "epoch,train/loss,test/accuracy\n1,nan,nan\n2,-inf,inf\n",
        "epoch,train/loss,test/accuracy\n1,0,0.5\n2,0.0,1\n",
        "epoch\n1\n2\n",
        "epoch,train/loss,test/loss,test/accuracy\n1,1e308,5e-324,1e-320\n2,1,0,1e300\n",
    ],
)
def test_curves_of_whatever_a_table_holds_are_drawn_without_a_warning(run, capsys, text):
    Path("some.csv").write_text(text)
    assert main(["curves", "some.csv"]) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("figures/curves.png\n", "")


def test_a_folder_whose_name_has_dollars_gives_curves_too(run, capsys):
    folder = Path("$\\nothing$")
    run.rename(folder)
    assert main(["curves", str(folder / "history.csv")]) == 0
    assert capsys.readouterr().out == f"{folder}/figures/curves.png\n"


def test_without_a_decoder_nothing_is_reconstructed(tmp_path, capsys):
    keys = TINY | {"loss": {"with_reconstruction": False}}
    keys["model"] = {key: value for key, value in TINY["model"].items() if key != "decoder"}
    *_, last = train(Config.model_validate(keys))
    checkpoint.save(last.snapshot(), tmp_path / "checkpoint.pt")
    for kind in ("reconstruct", "perturb"):
        assert "was trained without a decoder" in error_of(capsys, kind, tmp_path)
    assert main(["couplings", str(tmp_path), *FEW["couplings"]]) == 0


def test_without_matplotlib_one_line_says_what_to_install(run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = "pictures are drawn with matplotlib: pip install matplotlib"
    assert error_of(capsys, "perturb", "run") == message


def test_every_kind_has_a_command_with_help_and_numbers_are_checked(capsys):
    for kind in (*KINDS, "figures"):
        with pytest.raises(SystemExit) as ended:
            main([kind, "--help"])
        assert ended.value.code == 0
        said = " ".join(capsys.readouterr().out.split())
        assert f"example: python -m capsnet {kind} out/quickstart" in said
        assert "--dpi N dots per inch; default: 150" in said
    for words in (["--seed", "-1"], ["--sample", "x"], ["--images", "0"], ["--map", "fold"]):
        with pytest.raises(SystemExit) as ended:
            parser().parse_args(["rotate", "run", *words])
        assert ended.value.code == 2


def test_a_misspelt_command_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['capsnet', 'perturbe']\n"
        "from capsnet.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print({'torch', 'matplotlib', 'numpy', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_picture_is_there_whole_or_not_at_all(run, monkeypatch, capsys):
    import capsnet.files

    assert main(["confusion", "run"]) == 0
    before = (run / "figures/confusion.png").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(capsnet.files.os, "fsync", full)
    assert main(["confusion", "run"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert (run / "figures/confusion.png").read_bytes() == before
    assert Image.open(io.BytesIO(before)).format == "PNG"
    assert [file.name for file in (run / "figures").iterdir()] == ["confusion.png"]
