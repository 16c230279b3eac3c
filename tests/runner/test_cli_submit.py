"""`submit` and `validate`: files become rows, all or none."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_harness import TINY, Lab
from patience import PATIENCE, wait_until

from capsnet import yamlfile
from capsnet.files import locate
from runner import exits
from runner.commands import starting
from runner.states import State

NOT_UTF8 = os.fsdecode(b"caf\xe9")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Lab]:
    lab = Lab(tmp_path, monkeypatch, capsys)
    yield lab
    lab.close()


def test_the_numbers_are_on_stdout_and_the_rest_is_on_stderr(lab: Lab) -> None:
    lab.serve()
    done = lab.call("submit", lab.file("a.yaml"), lab.file("b.yaml"))
    assert (done.code, done.out) == (0, "1\n2\n")
    assert done.err == "queued runs 1 and 2; `python -m runner watch` shows them\n"
    assert [(run.name, run.state) for run in lab.store.runs()] == [("a", "QUEUED"), ("b", "QUEUED")]


def test_one_bad_file_among_good_ones_queues_nothing_and_every_mistake_is_one_line(lab: Lab) -> None:
    bad = lab.file("bad.yaml", "num_epochs: 0\nbatchsize: 3\n")
    done = lab.call("submit", lab.file("good.yaml"), bad, lab.folder / "absent.yaml")
    assert done.code == exits.USAGE
    assert done.out == ""
    lines = done.err.splitlines()
    assert [line.rpartition("/")[2].split(": ")[0] for line in lines] == [
        "bad.yaml:1",
        "bad.yaml:2",
        "absent.yaml",
    ]
    assert not lab.home.root.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"num_epochs: 3\nnum_epochs: 4\n", ":2: "),
        (b"optim:\n\tlr: 1\n", ":2: "),
        (b"x: !!python/object/apply:os.system [echo]\n", ":1: "),
        (b"seed: \xff\n", "UTF-8"),
        (b"# " + b"x" * 10_000_000, "is larger than"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_in_one_line(lab: Lab, content: bytes, said: str) -> None:
    (lab.folder / "odd.yaml").write_bytes(content)
    done = lab.call("submit", "odd.yaml")
    assert done.code == exits.USAGE
    assert done.err.startswith("odd.yaml") and said in done.err and done.err.count("\n") == 1
    assert not lab.home.root.exists()


def test_a_directory_is_refused_in_one_line(lab: Lab) -> None:
    done = lab.call("submit", lab.folder)
    assert (done.code, done.err) == (exits.USAGE, f"{lab.folder}: is a directory; name a YAML file\n")


def test_settings_name_and_priority_go_over_the_file(lab: Lab) -> None:
    lab.serve()
    file = lab.file(text=TINY + "name: other\nrunner: {priority: 1}\n")
    words = ("--set", "num_epochs=3", "--set", "optim.lr=0.5", "--name", "1e5", "--priority", "-7")
    assert lab.call("submit", file, *words).code == 0
    run = lab.run(1)
    config = yamlfile.parse(run.config, "row").data
    assert (run.name, run.num_epochs, run.priority) == ("1e5", 3, -7)
    assert (config["name"], config["optim"]["lr"], config["runner"]["priority"]) == ("1e5", 0.5, -7)


@pytest.mark.parametrize("command", ["submit", "validate"])
def test_another_kind_is_chosen_by_a_word_and_says_which_keys_it_drops(lab: Lab, command: str) -> None:
    lab.serve()
    lab.file("a.yaml", TINY + "model: {class_dim: 4, decoder: {hidden: [16]}}\n")
    done = lab.call(command, "a.yaml", "--set", "model=cnn", "--json")
    first, *_ = done.err.splitlines()
    assert first == "a.yaml: model.name=cnn: dropped model.class_dim, model.decoder.hidden of capsnet"
    [found] = json.loads(done.out)
    assert (done.code, found["config"]["model"]["name"]) == (0, "cnn")


def test_a_bad_setting_is_one_line_that_names_it(lab: Lab) -> None:
    done = lab.call("submit", lab.file(), "--set", "optim.lr=fast")
    assert done.code == exits.USAGE
    assert done.err.startswith("--set optim.lr=fast: ") and done.err.count("\n") == 1


def test_relative_paths_are_relative_to_the_directory_of_submit(lab: Lab) -> None:
    lab.serve()
    text = "checkpoint: {model_path: out/model.pt, log_dir: logs}\ndataset: {root: images}\n"
    lab.call("submit", lab.file("experiments/a.yaml", text).relative_to(lab.folder))
    run = lab.run(1)
    config = yamlfile.parse(run.config, "row").data
    assert config["checkpoint"]["model_path"] == str(lab.folder / "out/model.pt")
    assert config["checkpoint"]["log_dir"] == str(lab.folder / "logs")
    assert config["dataset"]["root"] == str(lab.folder / "images")
    assert run.source_file == str(lab.folder / "experiments/a.yaml")
    assert run.submit_directory == str(lab.folder)


def test_runs_that_write_one_checkpoint_file_know_it_however_they_spell_it(lab: Lab) -> None:
    lab.serve()
    (lab.folder / "link").symlink_to(lab.folder / "out")
    for path in ("out", "out/checkpoint.pt", "link/", str(lab.folder / "x/../out")):
        lab.call("submit", lab.file(text=f"checkpoint: {{model_path: {path}}}\n"))
    assert {run.exclusive for run in lab.store.runs()} == {(str(lab.folder / "out/checkpoint.pt"),)}
    assert lab.run(lab.submit()).exclusive == ()


def test_runs_that_write_one_folder_of_curves_know_it_too(lab: Lab) -> None:
    lab.serve()
    (lab.folder / "link").symlink_to(lab.folder / "logs")
    for path in ("logs", "./logs/", "link"):
        lab.call("submit", lab.file(text=f"checkpoint: {{log_dir: {path}}}\n"))
    both = lab.submit("checkpoint: {log_dir: logs, model_path: v1.0/}\n")
    assert [run.exclusive for run in lab.store.runs()[:3]] == [(str(lab.folder / "logs"),)] * 3
    assert lab.run(both).exclusive == (str(lab.folder / "v1.0/checkpoint.pt"), str(lab.folder / "logs"))
    waits = [cells.split("  ")[-1] for cells in lab.call("queue").out.splitlines()[2:]]
    assert waits == [f"waits for run {number}, which writes the same files" for number in (1, 2, 3)]


@pytest.mark.parametrize("command", ["submit", "validate"])
def test_a_place_that_holds_something_else_is_a_mistake_with_its_line(lab: Lab, command: str) -> None:
    (lab.folder / "thesis.tex").write_text("a year's work")
    text = "dataset: {name: digits}\ncheckpoint:\n  model_path: thesis.tex\n  log_dir: .\n"
    done = lab.call(command, lab.file(text=text), "--set", "checkpoint.log_dir=thesis.tex")
    assert done.code == exits.USAGE
    first, second = done.err.splitlines()
    assert first.startswith(f"{lab.folder}/tiny.yaml:3: checkpoint.model_path: {lab.folder}/thesis.")
    assert second.startswith("--set checkpoint.log_dir=thesis.tex: ") and "it is a file" in second
    assert not lab.store.runs()


def test_what_lies_here_does_not_count_where_runs_run_elsewhere(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    laptop = Lab(tmp_path, monkeypatch, capsys, postgres_url)
    laptop.serve(home=str(tmp_path / "runs"))
    laptop.become_a_laptop()
    (tmp_path / "thesis.tex").write_text("a year's work")
    assert laptop.submit("dataset: {name: digits}\ncheckpoint: {model_path: thesis.tex}\n") == 1
    laptop.close()


def test_a_folder_whose_name_has_a_suffix_is_one_for_the_worker_too(lab: Lab) -> None:
    lab.serve()
    run = lab.run(lab.submit("checkpoint: {model_path: ./v1.0/}\n"))
    there = yamlfile.parse(run.config, "row").data["checkpoint"]["model_path"]
    assert (str(locate(there)),) == run.exclusive == (str(lab.folder / "v1.0/checkpoint.pt"),)


@pytest.mark.parametrize("odd", ["directory", "file", "data"])
def test_a_name_that_is_not_utf8_is_one_line(lab: Lab, odd: str) -> None:
    folder = lab.folder / (NOT_UTF8 if odd == "directory" else "plain")
    folder.mkdir()
    file = folder / (f"{NOT_UTF8}.yaml" if odd == "file" else "a.yaml")
    file.write_text("seed: 1\n")
    environment = {**os.environ, "CAPSNET_DATA": NOT_UTF8 if odd == "data" else "data"}
    done = subprocess.run(
        lab.command("submit", file.name),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (exits.USAGE, "")
    assert "its name is not UTF-8: rename it" in done.stderr and done.stderr.count("\n") == 1
    assert not lab.home.root.exists()


def test_the_commit_of_the_directory_of_submit_is_recorded(lab: Lab) -> None:
    lab.serve()
    for words in (
        ("init", "-q"),
        ("add", "tiny.yaml"),
        ("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "x"),
    ):
        lab.file()
        subprocess.run(["git", *words], cwd=lab.folder, check=True)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=lab.folder, check=True, capture_output=True, text=True
    ).stdout.strip()
    clean = lab.run(lab.submit())
    dirty = lab.run(lab.submit(TINY + "seed: 5\n"))
    assert (clean.git_commit, clean.git_dirty) == (head, False)
    assert (dirty.git_commit, dirty.git_dirty) == (head, True)


def test_json_is_one_document_with_the_rows(lab: Lab) -> None:
    lab.serve()
    done = lab.call("submit", lab.file(), lab.file(), "--json")
    rows = json.loads(done.out)
    assert [(row["id"], row["state"], row["folder"]) for row in rows] == [
        (1, "QUEUED", str(lab.home.root / "1-tiny")),
        (2, "QUEUED", str(lab.home.root / "2-tiny")),
    ]


@pytest.mark.parametrize(
    ("needs", "why"),
    [
        ("{gpus: 8}", "needs 8 GPUs, the cluster has 2: can never start"),
        ("{cpus: 999}", "needs 999 cores, the largest machine has 2: can never start"),
        (
            "{workers: 4, gpus: 0, cpus: 40}",
            "needs 40 cores for 4 workers, the cluster has fewer: can never start",
        ),
    ],
)
def test_a_run_that_can_never_start_is_queued_and_why_is_said_as_queue_says_it(
    lab: Lab, needs: str, why: str
) -> None:
    lab.serve(gpus=2)
    done = lab.call("submit", lab.file(text=TINY + f"runner: {needs}\n"))
    assert (done.code, done.out) == (0, "1\n")
    assert done.err == f"run 1: {why}\nqueued run 1; `python -m runner watch 1` shows it\n"
    assert lab.run(1).state is State.QUEUED
    assert lab.call("queue").out.rstrip().endswith(f"  {why}")


def test_of_many_runs_that_can_never_start_each_reason_is_said_once(lab: Lab) -> None:
    lab.serve(gpus=2)
    many = [lab.file(f"many-{number}.yaml", TINY + "runner: {gpus: 8}\n") for number in range(40)]
    greedy = lab.file("greedy.yaml", TINY + "runner: {cpus: 999}\n")
    done = lab.call("submit", lab.file(), *many, greedy, "--json")
    assert done.err.splitlines()[:-1] == [
        "runs 2, 3, 4, ... (40 in all): each needs 8 GPUs, the cluster has 2: can never start",
        "run 42: needs 999 cores, the largest machine has 2: can never start",
    ]
    assert [row["id"] for row in json.loads(done.out)] == list(range(1, 43))


@pytest.mark.parametrize(
    ("beat", "says"),
    [
        ("machines = NULL", "run 1: needs 999 cores, the largest machine has 2: can never start\n"),  # of 0.1
        ("machines = NULL, cores = NULL, gpus = NULL", ""),  # it has begun this moment
        ("machines = NULL, cores = 0, gpus = 0", ""),  # no machine is up, yet
    ],
)
def test_what_no_scheduler_knows_yet_is_not_said(lab: Lab, beat: str, says: str) -> None:
    lab.serve()
    with contextlib.closing(sqlite3.connect(lab.home.database)) as database, database:
        database.execute(f"UPDATE queue SET {beat}")
    done = lab.call("submit", lab.file(text=TINY + "runner: {cpus: 999}\n"))
    assert (done.code, done.out) == (0, "1\n")
    assert done.err == f"{says}queued run 1; `python -m runner watch 1` shows it\n"


def test_ctrl_c_while_the_service_starts_leaves_the_run_queued_and_says_so(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(starting, "_started", stopped)
    monkeypatch.setattr(starting, "is_elsewhere", lambda home: False)
    done = lab.call("submit", lab.file(), "--follow")
    assert (done.code, done.out) == (exits.NOT_STARTED, "1\n")
    assert "what is queued stays so: `python -m runner up` goes on" in done.err
    assert lab.run(1).state is State.QUEUED


def test_a_service_that_does_not_start_leaves_the_run_queued_and_says_so(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("RUNNER_RAY_DIR", str(lab.file("not_a_folder", "")))
    done = lab.call("submit", lab.file())
    assert (done.code, done.out) == (exits.NOT_STARTED, "1\n")
    assert done.err.startswith("queued, but not started: ")
    assert "`python -m runner up` tries again" in done.err
    assert lab.run(1).state is State.QUEUED


def test_a_submit_that_is_killed_at_any_moment_leaves_all_its_runs_or_none(lab: Lab) -> None:
    lab.serve()
    lab.submit()
    files = [lab.file(f"{number}.yaml") for number in range(40)]
    log = lab.home.database.with_name("queue.db-wal")  # written at the moment of the commit
    seen = set()
    for millisecond in [0, 1, 3, 50, 250]:
        before, written = len(lab.store.runs()), log.stat().st_mtime_ns
        process = subprocess.Popen(lab.command("submit", *files), stdout=subprocess.DEVNULL)
        if millisecond < 50:
            wait_until(lambda at=written: log.stat().st_mtime_ns != at, interval=0.0002)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(millisecond / 1000)
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen.add(len(lab.store.runs()) - before)
    assert seen <= {0, len(files)}
    assert lab.call("submit", *files).code == 0  # and the queue is as good as before
    assert len(lab.store.runs()) % len(files) == 1


def test_two_submits_at_the_same_moment_on_a_fresh_home_lose_nothing(lab: Lab) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment["RUNNER_RAY_DIR"] = str(lab.file("not_a_folder", ""))
    command = lab.command("submit", lab.file(), lab.file())
    pair = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=PATIENCE) for process in pair]
    assert [process.returncode for process in pair] == [exits.NOT_STARTED] * 2
    assert sorted(out for out, _ in outputs) == ["1\n2\n", "3\n4\n"]
    assert len(lab.store.runs()) == 4


def test_validate_prints_the_resolved_configuration_and_queues_nothing(lab: Lab) -> None:
    done = lab.call("validate", lab.file("a.yaml"), "--set", "seed=5")
    data = yamlfile.parse(done.out, "stdout").data
    assert (done.code, data["seed"], data["num_epochs"], data["batch_size"]) == (0, 5, 10, 128)
    assert data["runner"]["gpus"] == "auto"
    assert not lab.home.root.exists()


def test_validate_takes_several_files_and_prints_json(lab: Lab) -> None:
    files = (lab.file("a.yaml"), lab.file("b.yaml"))
    assert lab.call("validate", *files).out.count("\nnum_epochs: 10\n") == 2
    documents = json.loads(lab.call("validate", *files, "--json").out)
    assert [Path(document["file"]).name for document in documents] == ["a.yaml", "b.yaml"]
    assert documents[1]["config"]["num_epochs"] == 10


def test_validate_reports_the_mistakes_of_all_files(lab: Lab) -> None:
    done = lab.call("validate", lab.file("a.yaml", "seed: -1\n"), lab.file("b.yaml", "sede: 1\n"))
    assert done.code == exits.USAGE
    assert [line.rpartition("/")[2].partition(":")[0] for line in done.err.splitlines()] == [
        "a.yaml",
        "b.yaml",
    ]
