"""`python -m capsnet`, as a user meets it."""

import contextlib
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys

import pytest
import torch

from capsnet import datasets, execution
from capsnet.checkpoint import load, read_history, save
from capsnet.cli import main
from capsnet.config import Config, Digits
from capsnet.cpus import available_cpus
from capsnet.progressbar import Lines, Numbers, duration, view

TINY = """\
num_epochs: 2
batch_size: 256
threads: 1
dataset: {name: digits, size: 12, validation: 100}
model: {conv_channels: 8, kernel_size: 5, primary_types: 3, decoder: {hidden: [16]}}
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A folder with tiny.yaml in it, to work in."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def curve(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [event.step for event in accumulator.Scalars("test/accuracy")]


def test_train_prints_each_epoch_and_leaves_checkpoint_history_and_curves(tiny, capsys):
    assert main(["train", "tiny.yaml"]) == 0
    printed = capsys.readouterr()
    assert re.search(
        r"^epoch 2/2  loss 0\.\d{4}  train .*%  validation .*%  test .*%  .* images/s$", printed.out, re.M
    )
    assert re.search(r"^test accuracy \d+\.\d\d% .* at the last epoch$", printed.out, re.M)
    assert re.search(
        r"^test accuracy \d+\.\d\d% at epoch [12], the best on the validation", printed.out, re.M
    )
    assert "checkpoint   out/tiny/checkpoint.pt" in printed.out
    assert printed.err == ""
    assert load(tiny / "out/tiny/checkpoint.pt")["epoch"] == 2
    assert [row["epoch"] for row in read_history(tiny / "out/tiny/history.csv")] == [1, 2]
    assert curve(tiny / "out/tiny/tensorboard") == [1, 2]


def test_what_is_picked_is_said_beside_the_output(tiny, capsys):
    assert main(["train", "tiny.yaml", "--set", "precision=auto"]) == 0
    picked = execution.resolve(Config(precision="auto", use_cuda=torch.cuda.is_available())).precision
    assert re.match(rf"precision: auto is {picked} here: .*\n$", capsys.readouterr().err)
    state = load(tiny / "out/tiny/checkpoint.pt")
    assert (state["config"]["precision"], state["execution"]["precision"]) == ("auto", picked)


def test_a_second_run_moves_the_first_aside_and_says_so(tiny, capsys):
    main(["train", "tiny.yaml", "--set", "seed=1"])
    main(["train", "tiny.yaml"])
    assert "the files of an earlier run were moved to out/tiny/earlier-1;" in capsys.readouterr().out
    assert load(tiny / "out/tiny/checkpoint.pt")["config"]["seed"] == 0
    assert load(tiny / "out/tiny/earlier-1/checkpoint.pt")["config"]["seed"] == 1
    assert (tiny / "out/tiny/earlier-1/figures/curves.png").exists()
    assert curve(tiny / "out/tiny/tensorboard") == [1, 2]
    main(["train", "tiny.yaml"])
    assert (tiny / "out/tiny/earlier-2/history.csv").exists()


def test_resume_extends_a_run(tiny, capsys):
    main(["train", "tiny.yaml", "--set", "num_epochs=1"])
    assert main(["train", "tiny.yaml", "--resume"]) == 0
    assert "going on from out/tiny/checkpoint.pt: epoch 1, step 0" in capsys.readouterr().out
    resumed = load(tiny / "out/tiny/checkpoint.pt")
    assert curve(tiny / "out/tiny/tensorboard") == [1, 2]
    main(["train", "tiny.yaml", "--set", "name=at_once"])
    at_once = load(tiny / "out/at_once/checkpoint.pt")
    assert all(torch.equal(value, at_once["model"][name]) for name, value in resumed["model"].items())
    assert main(["train", "tiny.yaml", "--resume"]) == 0
    assert "all 2 epochs were finished before" in capsys.readouterr().out


def test_a_run_without_a_gain_ends_early_and_goes_on_only_where_it_may_go_longer(tiny, capsys):
    still = "--set=num_epochs=4", "--set=optim.lr=1e-12"  # the first epoch stays the best
    assert main(["train", "tiny.yaml", *still, "--set=stop_after_epochs_without_gain=1"]) == 0
    said = "stopped early after epoch 2 of 4: no gain on the validation split since epoch 1"
    printed = capsys.readouterr().out
    assert f"\n{said}\n" in printed and " at epoch 1, the best on the validation split" in printed
    assert (tiny / "out/tiny/figures/curves.png").exists()
    assert main(["train", "tiny.yaml", *still, "--set=stop_after_epochs_without_gain=1", "--resume"]) == 0
    ways = "to go on, raise stop_after_epochs_without_gain, or set it to null"
    assert capsys.readouterr().out == (
        f"going on from out/tiny/checkpoint.pt: epoch 2, step 0\nit {said}; {ways}\n"
    )
    assert main(["train", "tiny.yaml", *still, "--resume"]) == 0
    assert load(tiny / "out/tiny/checkpoint.pt")["epoch"] == 4


def test_the_yaml_may_place_the_files_and_ask_to_go_on(tiny, capsys):
    places = [
        "--set=checkpoint.model_path=weights/mine.pt",
        "--set=checkpoint.log_dir=logs",
        "--set=checkpoint.use_checkpoint=true",
    ]
    assert main(["train", "tiny.yaml", "--set", "num_epochs=1", *places]) == 0
    first = "there is no weights/mine.pt to go on from: it begins at the first epoch"
    assert first in capsys.readouterr().out
    assert main(["train", "tiny.yaml", *places, "--set", "checkpoint.use_best=true"]) == 0
    said = capsys.readouterr().out
    assert "going on from weights/mine.pt" in said and first not in said
    assert load(tiny / "weights/mine.pt")["epoch"] == 2
    assert [row["epoch"] for row in read_history(tiny / "weights/mine.history.csv")] == [1, 2]
    assert curve(tiny / "logs") == [1, 2]
    assert not (tiny / "out").exists()


def test_resume_does_not_go_back_to_the_best_weights_as_the_run_may_have_begun_with_them(tiny):
    path = tiny / "out/tiny/checkpoint.pt"
    main(["train", "tiny.yaml", "--set=num_epochs=1"])
    best = load(path)["best"] | {"score": 2.0}  # no later epoch will do better
    main(["train", "tiny.yaml", "--resume", "--set=num_epochs=2"])
    state = load(path) | {"best": best}
    ends = []
    for use in ("false", "true"):
        save(state, path)
        asked = f"--set=checkpoint={{model_path: {path}, use_checkpoint: {use}, use_best: {use}}}"
        assert main(["train", "tiny.yaml", "--resume", "--set=num_epochs=3", asked]) == 0
        ends.append(load(path)["model"])
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_says_how_to_go_on(tiny, number):
    command = [sys.executable, "-m", "capsnet", "train", "tiny.yaml", "--set", "num_epochs=100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 2/"):
                break
        process.send_signal(number)
        rest = process.stdout.read()
    assert process.returncode == 130
    assert rest.splitlines()[-1] == (
        "stopped and saved; to go on: python -m capsnet train tiny.yaml --set=num_epochs=100000 --resume"
    )
    stopped = load(tiny / "out/tiny/checkpoint.pt")
    assert stopped["epoch"] >= 2
    epochs = stopped["epoch"] + 1
    assert main(["train", "tiny.yaml", "--set", f"num_epochs={epochs}", "--resume"]) == 0
    assert curve(tiny / "out/tiny/tensorboard") == list(range(1, epochs + 1))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "absent.yaml"], "absent.yaml"),
        (["train", "tiny.yaml", "--set", "batchsize=3"], "did you mean `batch_size`"),
        (["train", "tiny.yaml", "--resume"], "no checkpoint out/tiny/checkpoint.pt to resume"),
        (["train", "tiny.yaml", "--set", "dataset={name: mnist, root: nowhere}"], "set dataset.root or"),
        (
            ["train", "tiny.yaml", "--set", "dataset.validation=2000"],
            "leaves none of the 1437 training images",
        ),
        (["train", "tiny.yaml", "--set", "model.kernel_size=9"], "leaves no capsules"),
        (["summary", "tiny.yaml", "--set", "model.kernel_size=9"], "leaves no capsules"),
        (["evaluate", "absent.pt"], "there is no checkpoint absent.pt"),
        (["evaluate", "tiny.yaml"], "tiny.yaml is not a checkpoint"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(tiny, capsys, monkeypatch, arguments, words):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # no network
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr("urllib.request._opener", None)
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_checkpoint_of_another_network_is_refused_and_stays(tiny, capsys):
    main(["train", "tiny.yaml"])
    before = (tiny / "out/tiny/checkpoint.pt").read_bytes()
    assert main(["train", "tiny.yaml", "--resume", "--set", "route_iters=1"]) == 2
    assert "route_iters was 3 and is now 1" in capsys.readouterr().err
    assert (tiny / "out/tiny/checkpoint.pt").read_bytes() == before


def test_a_loss_that_is_no_number_fails_with_epoch_and_step(tiny, capsys):
    assert main(["train", "tiny.yaml", "--set", "optim.lr=1e+30"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"failed: loss is (nan|inf) at epoch 1, step \d", line)


def test_after_a_loss_that_is_no_number_the_checkpoint_from_before_is_there(tiny, capsys):
    main(["train", "tiny.yaml", "--set", "num_epochs=1"])
    exploding = ["--set=optim.lr=1e+39", "--set=checkpoint.interval_seconds=0.000001"]  # saves at any time
    assert main(["train", "tiny.yaml", "--resume", "--set=num_epochs=5", *exploding]) == 1
    assert "failed: " in capsys.readouterr().err
    kept = load(tiny / "out/tiny/checkpoint.pt")
    assert kept["epoch"] == 1
    assert all(value.isfinite().all() for value in kept["model"].values())
    assert main(["train", "tiny.yaml", "--resume"]) == 0


def test_a_file_in_the_place_of_the_runs_folder_is_said_before_it_trains(tiny, capsys):
    (tiny / "out").write_text("a file, no folder")
    assert main(["train", "tiny.yaml", "--set=checkpoint.log_dir=logs"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out/tiny/checkpoint.pt cannot be made, out is a file: move it, or")


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("taken", "taken cannot be TensorBoard's folder, it is a file"),
        ("taken/folder", "taken/folder cannot be made, taken is a file"),
    ],
)
def test_a_file_in_the_place_of_tensorboards_folder_shows_before_the_first_epochs_end(
    tiny, capsys, folder, said
):
    (tiny / "taken").write_text("a file, no folder")
    assert main(["train", "tiny.yaml", f"--set=checkpoint.log_dir={folder}"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line == f"error: {said}: move it, or set checkpoint.log_dir to a new folder"
    assert not (tiny / "out").exists()


def test_evaluate_gives_the_figures_of_the_run(tiny, capsys):
    main(["train", "tiny.yaml"])
    history = read_history(tiny / "out/tiny/history.csv")
    capsys.readouterr()
    assert main(["evaluate", "out/tiny", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for name in ("loss", "margin_loss", "reconstruction_loss", "accuracy", "error"):
        assert found[name] == pytest.approx(history[-1][f"test/{name}"], rel=1e-5)  # by more threads
    assert found["images"] == 360
    confusion = torch.tensor(found["confusion"])
    assert confusion.shape == (10, 10)
    labels = datasets.load(Digits(size=12), seed=0).test.labels
    assert confusion.sum(1).tolist() == labels.bincount().tolist()  # rows are the true classes
    assert confusion.sum(0).tolist() != confusion.sum(1).tolist()  # or this would show nothing
    assert confusion.diagonal().sum() == round(360 * found["accuracy"])
    assert main(["evaluate", "out/tiny/checkpoint.pt", "--best"]) == 0
    table = capsys.readouterr().out
    best = max(history, key=lambda row: row["validation/accuracy"])
    assert f"after {best['epoch']} epochs, on 360 test images" in table
    assert f"accuracy             {best['test/accuracy']:.2%}" in table


def test_evaluate_computes_as_fits_this_machine_whatever_the_one_was_that_trained(tiny, capsys):
    main(["train", "tiny.yaml", "--set", "num_epochs=1"])
    state = load(tiny / "out/tiny/checkpoint.pt")
    state["config"]["threads"] = 1000
    state["execution"] |= {"threads": 1000, "device": "cuda"}
    torch.save(state, tiny / "moved.pt")
    capsys.readouterr()
    assert main(["evaluate", "moved.pt"]) == 0
    assert capsys.readouterr().err == ""
    assert torch.get_num_threads() == available_cpus()


def test_evaluate_finds_a_data_set_that_has_moved(tiny, capsys):
    main(["train", "tiny.yaml", "--set", "dataset.size=28", "--set", "num_epochs=1"])
    state = load(tiny / "out/tiny/checkpoint.pt")
    state["config"]["dataset"] = {"name": "mnist", "root": "gone"}
    torch.save(state, tiny / "moved.pt")
    (tiny / "here").write_text("no folder either")
    assert main(["evaluate", "moved.pt", "--data", "here"]) == 2
    assert "here is no folder to put MNIST/raw in" in capsys.readouterr().err


def test_evaluate_looks_in_no_folder_for_a_data_set_that_lies_in_none(tiny, capsys):
    main(["train", "tiny.yaml", "--set", "num_epochs=1"])
    capsys.readouterr()
    assert main(["evaluate", "out/tiny", "--data", "here"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: --data here: the data set digits lies in no folder: leave it out"


def test_summary_counts_the_papers_8215568_parameters(tiny, capsys):
    (tiny / "paper.yaml").write_text("")
    (tiny / "paper.yaml").write_text("name: paper\n")
    assert main(["summary", "paper.yaml"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^total +8,215,568$", printed, re.M)
    assert re.search(r"^conv +Conv2d +256×20×20 +20,992$", printed, re.M)


@pytest.mark.parametrize("command", ["train", "evaluate", "summary"])
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"example: python -m capsnet {command} " in capsys.readouterr().out


def test_help_answers_without_importing_pytorch():
    code = "import sys; from capsnet.cli import parser; parser(); print('torch' in sys.modules)"
    answered = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answered.stdout == "False\n"


@pytest.fixture
def numbers():
    return Numbers(
        epoch=2, num_epochs=4, step=5, steps_per_epoch=10, loss=0.25, accuracy=0.5,
        images_per_second=1234.5, seconds_left=75.0,
    )  # fmt: skip


def everything(leader):
    """Return all bytes written to a terminal that has been closed since; they may take several reads."""
    written = b""
    with contextlib.suppress(OSError):  # EIO: Linux's way to say that nothing follows
        while chunk := os.read(leader, 100_000):
            written += chunk
    return written


def test_a_terminal_gets_a_bar(numbers):
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as stream, view(stream) as shown:
        shown.show(numbers)
        shown.line("epoch 1/4 done")
    written = everything(leader).decode()
    os.close(leader)
    assert "1.5/4 epochs" in written
    assert "loss 0.2500  accuracy 50.00%" in written
    assert "epoch 1/4 done" in written
    assert "━" in written


def test_a_pipe_gets_plain_lines_and_few(numbers):
    stream = io.StringIO()
    with view(stream) as shown:
        shown.show(numbers)
        shown.show(numbers)
        shown.line("epoch 1/4 done")
    assert stream.getvalue() == "epoch 1/4 done\n"


@pytest.mark.parametrize("variables", [{"JPY_PARENT_PID": "1"}, {"TERM": "dumb"}])
def test_a_terminal_that_keeps_every_frame_gets_plain_lines(numbers, monkeypatch, variables):
    """A notebook's output is such a terminal: each `!command` gets a pseudo-terminal there."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as stream, view(stream) as shown:
        for _ in range(100):
            shown.show(numbers)
        shown.line("epoch 1/4 done")
    written = everything(leader)
    os.close(leader)
    assert written == b"epoch 1/4 done\r\n"


def test_a_pipe_hears_of_a_long_epoch_now_and_then(numbers):
    stream = io.StringIO()
    Lines(stream, seconds=0.0).show(numbers)
    assert stream.getvalue() == ("epoch 2/4, 5/10  loss 0.2500  accuracy 50.00%  1,234 images/s  1:15 left\n")


def test_the_share_of_a_run_that_is_done(numbers):
    assert numbers.share == 1.5 / 4


def test_durations_are_written_as_on_a_clock():
    assert [duration(seconds) for seconds in (7, 750, 11_100, float("inf"))] == [
        "0:07",
        "12:30",
        "3:05:00",
        "?",
    ]


def test_a_reader_that_has_seen_enough_is_no_failure(tiny):
    """The reader closes the pipe early, like `head` in `summary tiny.yaml | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "capsnet", "summary", "tiny.yaml"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
