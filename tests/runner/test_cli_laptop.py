"""A host that knows only the queue's URL of the cluster: no Ray, no folder of the runs."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_harness import TINY, Done, Lab

from runner import exits, local_ray
from runner.commands import logs
from runner.commands.services import ray_line
from runner.paths import Home
from runner.rows import Machine
from runner.service import own_cluster
from runner.states import State

CLUSTER_HOME = "/mnt/lab/runs"  # as the hosts of the cluster see it; not there on this one
TRACKING = "http://lab:5000"
GPU_HOST = Machine(name="gpu1", gpus=2, cpus=16.0, leaving=False)
OTHER = Machine(name="gpu2", gpus=2, cpus=16.0, leaving=False)
LEAVING = Machine(name="gpu3", gpus=8, cpus=64.0, leaving=True)

STORED = "dataset: {name: mnist}\nnum_epochs: 10\n"

# Runs before `python -m runner`, so that the process finds only the libraries that a laptop has.
WITHOUT_THE_CLUSTERS_LIBRARIES = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ray", "torch", "torchvision", "mlflow"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
from runner.cli import main
main()
"""
WITH_A_SLOW_CLOCK = """
import time
right = time.time
time.time = lambda: right() - 3600
from runner.cli import main
main()
"""


@pytest.fixture
def lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], postgres_url: str
) -> Iterator[Lab]:
    lab = Lab(tmp_path, monkeypatch, capsys, postgres_url)
    lab.become_a_laptop()
    yield lab
    lab.close()


def serve(lab: Lab) -> None:
    lab.serve(machines=[GPU_HOST, OTHER, LEAVING], tracking=TRACKING, home=CLUSTER_HOME)


def test_submit_starts_nothing_and_says_what_to_do_where_nobody_serves(lab: Lab) -> None:
    done = lab.call("submit", lab.file())
    assert (done.code, done.out) == (0, "1\n")
    first, second = done.err.splitlines()
    why, what = first.split(": ")
    assert why == "no scheduler serves this queue at the moment"
    assert what == "`python -m runner up` on a host of the cluster starts it"
    assert second.startswith("queued run 1;")
    assert local_ray.recorded() is None and not (lab.folder / "runs").exists()
    listed = lab.call("queue")
    assert "no scheduler runs: `python -m runner up` on a host of the cluster" in listed.out
    assert listed.err == "no scheduler runs: `python -m runner up` on a host of the cluster starts it\n"
    assert "down; `python -m runner up` on a host of the cluster starts it" in lab.call("status").out


def test_submit_to_a_cluster_that_serves_needs_no_word_of_it(lab: Lab) -> None:
    serve(lab)
    assert lab.call("submit", lab.file()).err == "queued run 1; `python -m runner watch 1` shows it\n"


def test_a_resume_starts_nothing_either(lab: Lab) -> None:
    serve(lab)
    number = lab.ended(State.FAILED)
    lab.leave()
    done = lab.call("resume", number)
    assert done.code == 0
    assert done.err.splitlines()[1].startswith("no scheduler serves this queue at the moment: ")
    assert lab.run(number).state is State.QUEUED


def test_the_folder_is_named_as_the_cluster_sees_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(lab)
    number = lab.ended()
    lab.leave()  # also after the scheduler has gone
    assert f"folder      {CLUSTER_HOME}/1-tiny\n" in lab.call("show", number).out
    assert json.loads(lab.call("show", number, "--json").out)["folder"] == f"{CLUSTER_HOME}/1-tiny"
    monkeypatch.setenv("RUNNER_HOME", "/here/runs")
    assert "folder      /here/runs/1-tiny\n" in lab.call("show", number).out


def test_show_says_how_far_the_checkpoint_reaches_and_where_mlflow_is(lab: Lab) -> None:
    serve(lab)
    number = lab.submit()
    lab.start(number)
    lab.report(number, epoch=4, durable_epoch=3, durable_step=7)
    lab.store.bind(number, None, "abc")
    lab.store.published(number, epoch=3)
    shown = lab.call("show", number).out
    assert "checkpoint  3 epochs, step 7\n" in shown
    assert "mlflow      http://lab:5000/#/runs/abc, published up to epoch 3;" in shown


def test_logs_come_from_the_database(lab: Lab) -> None:
    serve(lab)
    number = lab.submit()
    for attempt, text in ((1, b"first\n"), (2, b"second\n")):
        lab.start(number)
        lab.store.add_log(number, attempt, 0, text)
        if attempt == 1:
            lab.lose(number, "its host was lost")
    done = lab.call("logs", number)
    assert (done.code, done.out) == (0, "first\n--- attempt 2 ---\nsecond\n")
    assert lab.call("logs", number, "--attempt", "2").out == "second\n"


def test_logs_of_other_workers_are_read_from_the_folders_or_it_is_said_that_they_are_not_to_be_seen(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(lab)
    number = lab.submit(TINY + "runner: {workers: 2}\n")
    lab.start(number)
    done = lab.call("logs", number, "--worker", "1")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert f"{CLUSTER_HOME} with the runs' folders is not to be seen from this host: read what" in done.err
    mounted = Home(tmp_path / "mounted").run(number, "tiny").attempt(1)
    mounted.folder.mkdir(parents=True)
    mounted.log_of(1).write_text("joins\n")
    monkeypatch.setenv("RUNNER_HOME", str(tmp_path / "mounted"))
    assert lab.call("logs", number, "--worker", "1").out == "joins\n"


def test_logs_follow_until_the_whole_log_has_come(lab: Lab) -> None:
    serve(lab)
    number = lab.submit()
    lab.start(number)
    lab.store.add_log(number, 1, 0, b"first\n")
    lab.end(number, State.FINISHED)
    before = threading.active_count()

    def copy_the_rest() -> None:
        time.sleep(1.0)  # the run has ended by then, and what it said last comes late
        lab.store.add_log(number, 1, 6, b"last\n")
        lab.store.add_log(number, 1, 11, b"")

    thread = threading.Thread(target=copy_the_rest)
    thread.start()
    done = lab.call("logs", number, "-f")
    thread.join()
    assert (done.code, done.out, done.err) == (0, "first\nlast\n", "")
    assert threading.active_count() == before


def test_logs_follow_does_not_wait_for_ever_for_one_who_copies(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LAST_WORDS_SECONDS", 0.1)
    serve(lab)
    number = lab.submit()
    lab.start(number)
    lab.store.add_log(number, 1, 0, b"first\n")
    lab.end(number, State.FAILED)
    done = lab.call("logs", number, "-f")
    assert (done.code, done.out) == (0, "first\n")
    assert done.err == "nobody has copied the end of attempt 1 yet: its last lines may be missing\n"


def test_a_folder_of_data_that_the_yaml_does_not_name_is_that_of_the_host_that_trains(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPSNET_DATA", "/home/ada/data")
    serve(lab)
    number = lab.submit(STORED)
    assert "root: null" in lab.run(number).config
    assert "root: null" in lab.call("validate", lab.file(text=STORED)).out
    lab.start(number)
    lab.end(number, State.FAILED)
    lab.call("resume", number, "--set", "num_epochs=20")
    resumed = lab.run(number).config
    assert "root: null" in resumed and "num_epochs: 20" in resumed


def test_paths_of_this_host_are_told_of_once(lab: Lab) -> None:
    serve(lab)
    text = STORED.replace("}", ", root: images}") + "checkpoint: {model_path: out/a.pt, log_dir: /logs}\n"
    file = lab.file(text=text)
    said = lab.call("submit", file, file).err.splitlines()[0]
    assert said == (
        "the hosts of the cluster must see under the same path: "
        f"dataset.root: {lab.folder}/images, checkpoint.model_path: {lab.folder}/out/a.pt"
    )
    assert f"root: {lab.folder}/images" in lab.run(1).config


@pytest.mark.parametrize("words", [["rm", "1", "--yes"], ["prune", "--yes"], ["figures", "1"]])
def test_what_needs_the_folders_does_nothing_by_halves(lab: Lab, words: list[str]) -> None:
    serve(lab)
    number = lab.ended()
    lab.store.published(number, attempt=1, state=State.FINISHED)
    done = lab.call(*words)
    assert (done.code, done.out) == (exits.USAGE, "")
    assert done.err.startswith(f"{CLUSTER_HOME} with the runs' folders is not to be seen from this host: ")
    assert done.err.count("\n") == 1
    assert lab.run(number).state is State.FINISHED


def test_a_run_that_never_started_has_no_folder_to_miss(lab: Lab) -> None:
    number = lab.submit()
    lab.call("cancel", number)
    assert lab.call("rm", number, "--yes").code == 0
    assert lab.store.run(number) is None


def test_a_host_whose_own_ray_serves_the_queue_is_not_told_that_it_does_not_belong(lab: Lab) -> None:
    lab.store.take_over(lab.store.now(), own_cluster(), "1")
    lines = lab.call("status").out.splitlines()
    assert "ray        down" in lines


@pytest.mark.parametrize("state", ["starting", "without a node"])
def test_a_local_ray_that_does_not_serve_is_called_what_it_is(state: str) -> None:
    ray = {"address": None, "local": True, "pid": 7, "state": state}
    up, down = "`python -m runner up` brings one up", "`python -m runner down` ends it"
    assert ray_line(ray, None) == f"{state}, pid 7; {up}, {down}"


def test_status_lists_the_hosts_of_a_cluster(lab: Lab) -> None:
    serve(lab)
    lines = lab.call("status").out.splitlines()
    assert "ray        lab, to which this host does not belong" in lines
    assert lines[lines.index("hosts") + 1 :] == [
        "  gpu1  2 GPUs  16 cores",
        "  gpu2  2 GPUs  16 cores",
        "  gpu3  8 GPUs  64 cores  nothing starts there",
    ]
    assert json.loads(lab.call("status", "--json").out)["machines"] == [GPU_HOST, OTHER, LEAVING]


def test_a_run_that_no_host_can_take_is_told_so(lab: Lab) -> None:
    serve(lab)
    why = "needs 400 cores, the largest machine has 16: can never start"
    done = lab.call("submit", lab.file(text=TINY + "runner: {cpus: 400}\n"))
    assert done.err.startswith(f"run 1: {why}\n")
    assert why in lab.call("queue").out


def test_of_a_scheduler_that_is_gone_nobody_is_told_what_its_hosts_could_take(lab: Lab) -> None:
    lab.serve(machines=[GPU_HOST], tracking=TRACKING, home=CLUSTER_HOME, ahead=-60.0)
    done = lab.call("submit", lab.file(text=TINY + "runner: {cpus: 400}\n"))
    assert (done.code, done.out) == (0, "1\n")
    assert "no scheduler serves this queue" in done.err and "never start" not in done.err


def test_a_run_that_only_a_host_which_leaves_could_take_is_not_told_never(lab: Lab) -> None:
    serve(lab)
    assert "start" not in lab.call("submit", lab.file(text=TINY + "runner: {gpus: 1, cpus: 40}\n")).err
    assert (
        "nothing starts at the moment where it could run: `python -m runner status`" in lab.call("queue").out
    )


def test_a_run_that_takes_any_gpu_waits_for_one_of_a_host_where_nothing_starts(lab: Lab) -> None:
    without = Machine(name="cpu1", gpus=0, cpus=16.0, leaving=False)
    lab.serve(machines=[without, LEAVING], tracking=TRACKING, home=CLUSTER_HOME)
    lab.submit(TINY)
    assert "nothing starts at the moment where it could run" in lab.call("queue").out


@pytest.mark.parametrize("number", [2**31 - 1, 2**31, 2**63])
def test_a_number_that_no_run_can_have_is_that_of_no_run(lab: Lab, number: int) -> None:
    assert lab.call("show", number).err.startswith(f"there is no run {number}: ")


def run_as(code: str, lab: Lab, *words: object) -> Done:
    """Run a command in a process that begins with this code."""
    command = [sys.executable, "-c", code, *map(str, words)]
    return lab.finish(command)


@pytest.mark.slow
def test_everyday_commands_need_no_ray_torch_or_mlflow(lab: Lab) -> None:
    def laptop(*words: object, code: int = 0) -> str:
        done = run_as(WITHOUT_THE_CLUSTERS_LIBRARIES, lab, *words)
        assert done.code == code, done.err
        assert "Traceback" not in done.err
        return done.out

    serve(lab)
    assert "num_epochs: 10" in laptop("validate", lab.file())
    assert laptop("submit", lab.file(), lab.file("other.yaml")) == "1\n2\n"
    laptop("priority", 2, 5)
    assert "needs 1 GPU, 1 run ahead" in laptop("queue")
    lab.start(1, gpus=1)
    lab.store.add_log(1, 1, 0, b"hello from afar\n")
    assert laptop("logs", 1) == "hello from afar\n"
    assert "gpu1" in laptop("status")
    laptop("interrupt", 1)
    assert lab.run(1).intent == "interrupt"
    lab.store.add_log(1, 1, 16, b"")
    lab.end(1, State.INTERRUPTED)
    laptop("wait", 1, code=exits.INTERRUPTED)
    assert laptop("logs", 1, "-f") == "hello from afar\n"
    assert "INTERRUPTED" in laptop("show", 1)
    assert json.loads(laptop("show", 1, "--json"))["folder"] == f"{CLUSTER_HOME}/1-tiny"
    laptop("resume", 1, "--set", "num_epochs=20")
    laptop("cancel", 1, 2)
    assert "run 1 (tiny) is CANCELLED" in laptop("watch", 1, code=exits.CANCELLED)
    laptop("watch")
    assert local_ray.recorded() is None


@pytest.mark.slow
def test_a_clock_that_is_an_hour_slow_does_not_make_the_scheduler_look_dead_or_ages_wrong(lab: Lab) -> None:
    lab.serve(machines=[GPU_HOST], home=CLUSTER_HOME, ahead=0.0)
    done = run_as(WITH_A_SLOW_CLOCK, lab, "submit", lab.file())
    assert done.err == "queued run 1; `python -m runner watch 1` shows it\n"
    assert abs(lab.run(1).submitted_at - lab.store.now()) < 60
    lab.start(1, gpus=1)
    lab.report(1, epoch=1, loss=1.0)
    listed = run_as(WITH_A_SLOW_CLOCK, lab, "queue")
    assert "no scheduler" not in listed.out + listed.err and "not answering" not in listed.out
    assert listed.out.splitlines()[1].split()[-1].endswith("s")  # its age
    assert "up, pid 1" in run_as(WITH_A_SLOW_CLOCK, lab, "status").out


def test_ui_gives_the_address_of_the_mlflow_server_and_starts_nothing(lab: Lab) -> None:
    lab.serve(machines=[GPU_HOST], tracking="http://127.0.0.1:9/mlflow", home=CLUSTER_HOME)  # does not answer
    done = lab.call("ui")
    assert (done.code, done.out) == (0, "MLflow       http://127.0.0.1:9/mlflow\n")
    assert f"no TensorBoard: {CLUSTER_HOME} with the runs' folders is not to be seen" in done.err


def test_ui_without_a_server_and_the_runs_folders_is_one_line(lab: Lab) -> None:
    lab.serve(machines=[GPU_HOST], tracking=f"sqlite:///{CLUSTER_HOME}/mlflow.db", home=CLUSTER_HOME)
    done = lab.call("ui")
    assert (done.code, done.out) == (2, "")
    assert "run `python -m runner ui` on a host of the cluster, or mount it" in done.err
