"""`interrupt`, `cancel`, `resume`, `priority`: intents, moves that are refused, and those done in part."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cli_harness import TINY, Lab

from capsnet import config, schedules, yamlfile
from runner import exits
from runner.editing import edited
from runner.narration import next_steps
from runner.rows import Run
from runner.states import State
from runner.store import Store, Unreachable


@pytest.mark.parametrize(("command", "state"), [("interrupt", "INTERRUPTED"), ("cancel", "CANCELLED")])
def test_a_queued_run_ends_at_once(lab: Lab, command: str, state: str) -> None:
    number = lab.submit()
    done = lab.call(command, number)
    assert (done.code, done.out) == (0, "")
    assert done.err == f"run 1 is {state}; `python -m runner resume 1` queues it again\n"
    assert lab.run(number).state == state


def test_a_running_run_gets_an_intent_with_its_grace(lab: Lab) -> None:
    number = lab.submit()
    lab.start(number)
    done = lab.call("interrupt", number, "--grace", "7", "--json")
    [asked] = json.loads(done.out)
    assert (asked["id"], asked["state"], asked["intent"]) == (1, "RUNNING", "interrupt")
    assert done.err == "run 1 saves and stops; `python -m runner wait 1` waits for it\n"
    run = lab.run(number)
    assert (run.state, run.intent, run.grace_seconds) == (State.RUNNING, "interrupt", 7.0)
    assert "saves and stops" in lab.call("queue").out


def test_an_intent_that_nobody_is_there_to_obey_says_so(lab: Lab) -> None:
    number = lab.submit()
    lab.start(number)
    lab.leave()
    assert "no scheduler runs to see to it: `python -m runner up`" in lab.call("cancel", number).err


def test_of_several_runs_those_that_have_ended_are_said_and_the_others_are_interrupted(lab: Lab) -> None:
    finished, failed, other = lab.ended(), lab.ended(State.FAILED), lab.ended(State.FAILED)
    queued = lab.submit()
    done = lab.call("interrupt", finished, queued, failed, other, "--json")
    assert done.code == exits.PARTLY
    assert done.err.splitlines() == [
        "run 4 is INTERRUPTED; `python -m runner resume 4` queues it again",
        "run 1 is FINISHED: nothing to interrupt; `python -m runner resume 1 --set num_epochs=20` goes on",
        "runs 2 and 3 are FAILED: nothing to interrupt; `python -m runner resume 2-3` goes on",
    ]
    assert [run["id"] for run in json.loads(done.out)] == [queued]
    assert lab.run(queued).state is State.INTERRUPTED


def test_where_all_runs_have_ended_nothing_is_done_and_the_exit_code_says_so(lab: Lab) -> None:
    finished = lab.ended()
    done = lab.call("cancel", finished, "--json")
    assert (done.code, done.out) == (exits.USAGE, "")
    assert done.err.startswith("run 1 is FINISHED: nothing to cancel; ") and done.err.count("\n") == 1


def test_a_run_that_ends_while_it_is_cancelled_is_said_and_holds_up_no_other(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = lab.submit(), lab.submit()
    lab.start(first)
    ask = lab.store.__class__.ask_each

    def ask_late(*arguments: Any) -> Any:
        """End the first run after the command has read it and before it asks for the cancellation."""
        lab.end(first, State.FINISHED)
        return ask(*arguments)

    monkeypatch.setattr(lab.store.__class__, "ask_each", ask_late)
    done = lab.call("cancel", first, second)
    assert done.code == exits.PARTLY
    assert "run 1 is FINISHED: nothing to cancel" in done.err
    assert lab.run(second).state is State.CANCELLED


def test_unknown_runs_are_all_named_and_nothing_is_done(lab: Lab) -> None:
    queued = lab.submit()
    done = lab.call("cancel", queued, 7, "nosuch")
    assert done.code == exits.USAGE
    assert [line.split(":")[0] for line in done.err.splitlines()] == [
        "there is no run 7",
        "there is no run 'nosuch'",
    ]
    assert lab.run(queued).state is State.QUEUED


def test_a_resume_cut_short_by_an_outage_says_which_runs_are_queued(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = lab.ended(State.FAILED), lab.ended(State.FAILED)
    really: Callable[..., None] = Store.resume

    def once(store: Store, run_id: int, *arguments: Any, **fields: Any) -> None:
        if run_id == second:
            raise Unreachable("server: no answer")
        really(store, run_id, *arguments, **fields)

    monkeypatch.setattr(Store, "resume", once)
    done = lab.call("resume", first, second)
    assert [lab.run(number).state for number in (first, second)] == [State.QUEUED, State.FAILED]
    assert f"run {first} is queued again" in done.err
    assert f"server: no answer; run {second} and the runs after it may not be queued" in done.err
    assert done.code in (exits.PARTLY, exits.NOT_STARTED)


@pytest.mark.parametrize("state", [State.INTERRUPTED, State.FAILED, State.CANCELLED])
def test_resume_queues_an_ended_run_again_as_it_was(lab: Lab, state: State) -> None:
    number = lab.ended(state)
    before = lab.run(number).config
    done = lab.call("resume", number, "--json")
    shown = json.loads(done.out)
    assert (shown["id"], shown["state"], shown["config"]["num_epochs"]) == (number, "QUEUED", 10)
    run = lab.run(number)
    assert (run.state, run.attempt, run.config) == (State.QUEUED, 1, before)


def test_resume_extends_a_finished_run_and_changes_only_what_was_set(lab: Lab) -> None:
    number = lab.ended(text=TINY + "optim: {lr: 0.5}\nrunner: {gpus: 0.5, tags: {a: b}}\n")
    before = yamlfile.parse(lab.run(number).config, "row").data
    assert lab.call("resume", number, "--set", "num_epochs=200", "--set", "optim.lr=0.25").code == 0
    run = lab.run(number)
    after = yamlfile.parse(run.config, "row").data
    assert (run.state, run.num_epochs) == (State.QUEUED, 200)
    assert after == {**before, "num_epochs": 200, "optim": {**before["optim"], "lr": 0.25}}


EARLY = "dataset: {name: digits, validation: 100}\nnum_epochs: 10\nstop_after_epochs_without_gain: 3\n"
REASON = "stopped early after epoch 4 of 10: no gain on the validation split since epoch 1"


def stopped_early(lab: Lab) -> int:
    number = lab.submit(EARLY)
    lab.start(number)
    lab.report(number, epoch=4, durable_epoch=4, durable_step=0)
    lab.end(number, State.FINISHED, REASON, epochs=4)
    return number


def test_a_run_that_stopped_early_shows_how_far_it_came_and_why(lab: Lab) -> None:
    number = stopped_early(lab)
    (line,) = lab.call("queue").out.splitlines()[1:]
    assert " FINISHED " in line and " 4/10 " in line and REASON in line
    shown = lab.call("show", number).out
    assert f"FINISHED: {REASON}\n" in shown and "4/10 epochs" in shown
    goes_on = "python -m runner resume 1 --set stop_after_epochs_without_gain=null"
    assert f"`{goes_on}` goes on" in lab.call("interrupt", number).err
    waited = lab.call("wait", number)
    assert (waited.code, REASON in waited.err) == (0, True)
    assert next_steps(lab.run(number))["go on"] == goes_on


@pytest.mark.parametrize("settings", [[], ["num_epochs=20"], ["stop_after_epochs_without_gain=3"]])
def test_a_run_that_stopped_early_and_may_not_go_longer_is_not_resumed(lab: Lab, settings: list[str]) -> None:
    number = stopped_early(lab)
    done = lab.call("resume", number, *(word for setting in settings for word in ("--set", setting)))
    assert (done.code, done.err.count("\n")) == (exits.USAGE, 1)
    assert "stopped early" in done.err and "--set stop_after_epochs_without_gain=null" in done.err
    assert lab.run(number).state is State.FINISHED


@pytest.mark.parametrize("allowed", ["null", "5"])
def test_a_run_that_stopped_early_goes_on_where_it_may_go_longer(lab: Lab, allowed: str) -> None:
    number = stopped_early(lab)
    done = lab.call("resume", number, "--set", f"stop_after_epochs_without_gain={allowed}")
    assert done.code == 0, done.err
    run = lab.run(number)
    assert (run.state, run.num_epochs, run.durable_epoch, run.reason) == (State.QUEUED, 10, 4, None)


def test_a_resume_changes_the_optimizers_settings(lab: Lab) -> None:
    number = lab.ended(State.INTERRUPTED, text=TINY + "optim: {name: sgd, momentum: 0.5}\n")
    settings = "optim.lr=0.25", "optim.weight_decay=0.1", "optim.clip_norm=1", "optim.warmup_epochs=0.5"
    words = [word for setting in (*settings, "optim.momentum=0.8") for word in ("--set", setting)]
    assert lab.call("resume", number, *words).code == 0
    optim = yamlfile.parse(lab.run(number).config, "row").data["optim"]
    assert (optim["name"], optim["lr"], optim["weight_decay"]) == ("sgd", 0.25, 0.1)
    assert (optim["clip_norm"], optim["warmup_epochs"], optim["momentum"]) == (1.0, 0.5, 0.8)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("optim.name=adamw", "--set optim.name=adamw: a resume goes on with its optimizer; "),
        ("optim={schedule: cosine}", "run 1 is trained by sgd: name it where you set all of optim; "),
    ],
)
def test_a_resume_does_not_change_the_optimizer_itself(lab: Lab, setting: str, said: str) -> None:
    number = lab.ended(State.INTERRUPTED, text=TINY + "optim: {name: sgd}\n")
    before = lab.run(number)
    done = lab.call("resume", number, "--set", setting)
    assert (done.code, done.err.count("\n")) == (exits.USAGE, 1)
    assert done.err.startswith(said)
    assert lab.run(number) == before
    assert lab.call("resume", number, "--set", "optim={name: sgd, schedule: cosine}").code == 0


def test_another_schedule_drops_the_keys_of_the_former_and_says_so(lab: Lab) -> None:
    number = lab.ended(State.INTERRUPTED, text=TINY + "optim: {milestone: [3]}\n")
    done = lab.call("resume", number, "--set", "optim.schedule=cosine")
    note = "run 1: optim.schedule=cosine: dropped optim.step_decay, optim.milestone of multistep\n"
    assert done.code == 0 and done.err.startswith(note)
    optim = yamlfile.parse(lab.run(number).config, "row").data["optim"]
    assert (optim["schedule"], "milestone" in optim) == ("cosine", False)


@pytest.mark.parametrize("setting", ["optim=adamw", "dataset=mnist", "model.decoder=none"])
def test_a_kind_named_by_its_word_alone_is_refused_at_resume_as_it_was_given(lab: Lab, setting: str) -> None:
    done = lab.call("resume", lab.ended(State.INTERRUPTED), "--set", setting)
    assert (done.code, done.err.count("\n")) == (exits.USAGE, 1)
    assert done.err.startswith(f"--set {setting}: a resume ")


OLDER = """\
name: older
num_epochs: 10
dataset: {validation: 0, shift: 0, root: /data, standardise: true, name: svhn}
optim: {schedule: multistep, lr: 0.001, step_decay: 0.1, milestone: []}
checkpoint: {model_path: null, log_dir: null}
runner: {gpus: auto, cpus: auto}
"""


@pytest.mark.parametrize(("code", "new_code"), [("0" * 64, False), ("0" * 64, True), (None, False)])
def test_a_run_that_keeps_older_code_keeps_its_keys_and_words(
    lab: Lab, code: str | None, new_code: bool
) -> None:
    run = replace(lab.run(lab.ended(State.INTERRUPTED)), config=OLDER, code=code, submit_directory="/work")
    settings = ["num_epochs=20", "optim.lr=0.5", "dataset.root=elsewhere"]
    config = edited(run, settings, best=False, environment={}, new_code=new_code).config
    assert config is not None
    data = yamlfile.parse(config, "row").data
    assert (data["num_epochs"], data["optim"]["lr"]) == (20, 0.5)
    assert data["dataset"]["root"] == "/work/elsewhere"
    keeps = code is not None and not new_code
    assert (data["dataset"]["standardise"] is True) is keeps
    assert ("epsilon" in data["optim"], "clip" in data["dataset"]) == (not keeps, not keeps)
    if keeps:
        older = yamlfile.parse(OLDER, "row").data
        assert [list(data), *map(list, (data["optim"], data["dataset"]))] == [
            list(older),
            *map(list, (older["optim"], older["dataset"])),
        ]


def test_a_run_that_failed_for_want_of_its_data_can_be_told_where_they_are(lab: Lab) -> None:
    number = lab.ended(State.FAILED, text=TINY.replace("digits", "mnist"))
    assert lab.call("resume", number, "--set", "dataset.root=elsewhere").code == 0
    assert yamlfile.parse(lab.run(number).config, "row").data["dataset"]["root"] == f"{lab.folder}/elsewhere"


@pytest.mark.parametrize("settings", [[], ["--set", "num_epochs=10"], ["--set", "optim.lr=0.25"]])
def test_a_finished_run_without_more_epochs_is_not_resumed(lab: Lab, settings: list[str]) -> None:
    number = lab.ended()
    done = lab.call("resume", number, *settings)
    assert done.code == exits.USAGE
    assert (
        done.err.startswith("run 1: it is FINISHED ")
        and "--set num_epochs=20" in done.err
        and done.err.count("\n") == 1
    )
    assert lab.run(number).state is State.FINISHED


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
def test_an_unfinished_run_is_not_resumed(lab: Lab, state: State) -> None:
    number = lab.submit()
    if state is State.RUNNING:
        lab.start(number)
    done = lab.call("resume", number)
    assert (done.code, done.err) == (2, f"run 1 is {state}: only an ended run can be resumed\n")


@pytest.mark.parametrize("key", ["seed=1", "model.conv_channels=3", "name=x", "runner.tags={}", "loss={}"])
def test_what_would_make_it_another_run_cannot_be_set(lab: Lab, key: str) -> None:
    number = lab.ended(State.INTERRUPTED)
    done = lab.call("resume", number, "--set", key, "--set", "num_epochs=20")
    assert done.code == exits.USAGE
    assert done.err.startswith(f"--set {key}: a resume changes only num_epochs, optim, ")
    assert lab.run(number).state is State.INTERRUPTED


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("num_epochs", "must read key=value"),
        ("num_epochs=0", "must be at least 1"),
        ("optim.lr=fast", "must be a number"),
        ("num_epochs=3", "run 1 has 4 epochs behind it already"),
    ],
)
def test_a_value_that_is_not_allowed_is_one_line(lab: Lab, key: str, said: str) -> None:
    number = lab.submit()
    lab.start(number)
    lab.report(number, epoch=5, durable_epoch=4, durable_step=0)
    lab.end(number, State.INTERRUPTED)
    done = lab.call("resume", number, "--set", key)
    assert done.code == exits.USAGE
    assert done.err.startswith(f"--set {key}: ") and said in done.err and done.err.count("\n") == 1


TWO = TINY + "batch_size: 4\nrunner: {workers: 2, cpus: 2}\n"


def wants(run: Run) -> tuple[object, ...]:
    """Return a run's GPUs, CPUs and workers, first from its row in the queue, then from its YAML."""
    block = yamlfile.parse(run.config, "row").data["runner"]
    return (run.gpus, run.cpus, run.workers), (block["gpus"], block["cpus"], block["workers"])


@pytest.mark.parametrize("workers", [1, 3, 4])
def test_a_run_of_two_workers_goes_on_with_any_other_number(lab: Lab, workers: int) -> None:
    number = lab.ended(State.INTERRUPTED, text=TWO)
    assert wants(lab.run(number)) == ((0, 2, 2), ("auto", 2, 2))
    settings = "--set", f"runner.workers={workers}", "--set", "runner.cpus=4"
    assert lab.call("resume", number, *settings).code == 0
    assert wants(lab.run(number)) == ((0, 4, workers), ("auto", 4, workers))
    assert [one.workers for one in lab.store.line()] == [workers]


@pytest.mark.parametrize(
    ("before", "settings", "row"),
    [
        ("{gpus: 2}", ["gpus=4"], (4, "auto", 4)),
        ("{gpus: 2}", ["gpus=1"], (1, "auto", 1)),
        ("{gpus: 2}", ["gpus=0", "workers=2"], (0, "auto", 2)),
        ("{workers: 2}", ["workers=1"], (1, "auto", 1)),  # auto came to two GPUs
        ("{workers: 2}", ["workers=4"], (4, "auto", 4)),
        ("{workers: 2}", ["gpus=auto"], ("auto", "auto", 2)),
        ("{workers: 2}", ["cpus=3"], (2, 3, 2)),
    ],
)
def test_the_gpus_follow_the_workers_unless_they_are_set(
    lab: Lab, before: str, settings: list[str], row: tuple[object, ...]
) -> None:
    number = lab.submit(TINY + f"runner: {before}\n")
    lab.start(number, gpus=2)
    lab.end(number, State.FAILED)
    words = [word for setting in settings for word in ("--set", f"runner.{setting}")]
    assert lab.call("resume", number, *words).code == 0
    assert wants(lab.run(number))[0] == row


@pytest.mark.parametrize(
    ("text", "setting", "said"),
    [
        (TWO, "workers=5", "batch_size: a batch of 4 images cannot be shared by 5 workers: raise it, or set"),
        (TWO, "workers=0", "must be auto, or a whole number from 1 to 1024"),
        (TINY + "runner: {gpus: 2}\n", "workers=1", "must be auto or 2, one for each GPU (got 1)"),
    ],
)
def test_workers_that_would_be_refused_at_submit_are_refused_at_resume(
    lab: Lab, text: str, setting: str, said: str
) -> None:
    number = lab.ended(State.INTERRUPTED, text=text)
    before = lab.run(number)
    done = lab.call("resume", number, "--set", f"runner.{setting}")
    assert (done.code, done.err.count("\n")) == (exits.USAGE, 1)
    assert said in done.err
    assert lab.run(number) == before


def test_a_resume_that_can_never_start_says_why_and_one_that_can_does_not(lab: Lab) -> None:
    number = lab.ended(State.INTERRUPTED, text=TWO)
    again = "run 1 is queued again; `python -m runner watch 1` shows it"
    done = lab.call("resume", number, "--set", "runner.cpus=40")
    assert (done.code, done.out) == (0, "")
    assert done.err.splitlines() == [
        again,
        "run 1: needs 40 cores for 2 workers, the cluster has fewer: can never start",
    ]
    lab.call("cancel", number)
    assert lab.call("resume", number).err.splitlines()[1:] == done.err.splitlines()[1:]
    lab.call("cancel", number)
    assert lab.call("resume", number, "--set", "runner.cpus=2").err == f"{again}\n"


def test_the_best_weights_need_a_validation_split(lab: Lab) -> None:
    without = lab.ended(State.INTERRUPTED)
    done = lab.call("resume", without, "--best")
    assert done.code == exits.USAGE
    assert "no validation split" in done.err and done.err.count("\n") == 1
    with_one = lab.ended(State.INTERRUPTED, text="dataset: {name: digits, validation: 100}\nnum_epochs: 10\n")
    assert lab.call("resume", with_one, "--best").code == 0
    assert lab.run(with_one).use_best is True


def test_priority_moves_a_queued_run_to_the_front(lab: Lab) -> None:
    first, second = lab.submit(), lab.submit()
    assert lab.call("priority", second, 10).code == 0
    assert [run.id for run in lab.store.queue()] == [second, first]
    assert lab.call("priority", second, "--", -10).code == 0
    assert [run.id for run in lab.store.queue()] == [first, second]


def test_only_a_queued_run_has_a_priority_to_change(lab: Lab) -> None:
    number = lab.ended()
    done = lab.call("priority", number, 3)
    said = "run 1 is FINISHED: only a queued run has a place to change\n"
    assert (done.code, done.err) == (exits.USAGE, said)


def test_the_last_word_is_the_priority_of_all_runs_before_it_and_may_be_negative(lab: Lab) -> None:
    finished, first, second, third = lab.ended(), lab.submit(), lab.submit(), lab.submit()
    done = lab.call("priority", finished, f"{first}-{second}", -5, "--json")
    assert done.code == exits.PARTLY
    assert [run["priority"] for run in json.loads(done.out)] == [-5, -5]
    assert done.err.splitlines()[0] == "runs 2 and 3 have priority -5"
    assert [run.id for run in lab.store.queue()] == [third, first, second]


@pytest.mark.parametrize("words", [["1", "x"], ["1"], ["1", "--jsn", "5"], ["1", "1000001"]])
def test_a_priority_that_is_none_changes_nothing(lab: Lab, words: list[str]) -> None:
    number = lab.submit()
    assert lab.call("priority", *words).code == exits.USAGE
    assert lab.run(number).priority == 0


COSINE = TINY + "optim: {schedule: cosine, lr: 0.01}\n"


def interrupted(lab: Lab, text: str, gpus: float = 0) -> int:
    """A run that was interrupted after step 10 of 20 of its fifth epoch."""
    number = lab.submit(text)
    lab.start(number, gpus=gpus)
    lab.report(number, epoch=5, step=10, steps_per_epoch=20, durable_epoch=4, durable_step=10)
    lab.end(number, State.INTERRUPTED)
    return number


def test_a_resume_that_stretches_a_cosine_says_so_in_the_workers_words(lab: Lab) -> None:
    first, second = interrupted(lab, COSINE), interrupted(lab, COSINE)
    said = (
        "num_epochs was 10 and is now 20, and the cosine spans all epochs: the learning rate goes on from "
        "0.0088 instead of 0.00578"
    )
    before, now = config.parse(COSINE), config.parse(COSINE.replace("num_epochs: 10", "num_epochs: 20"))
    assert said == schedules.stretched(before, now, 4 * 20 + 10, 20)
    done = lab.call("resume", first, second, "--set", "num_epochs=20")
    assert done.code == 0
    assert done.err.splitlines()[1] == f"runs 1 and 2: {said}"


@pytest.mark.parametrize("setting", ["optim.lr=0.02", "num_epochs=10"])
def test_a_resume_that_leaves_the_cosine_as_long_as_it_was_says_nothing(lab: Lab, setting: str) -> None:
    number = interrupted(lab, COSINE)
    assert "cosine" not in lab.call("resume", number, "--set", setting).err


def test_of_other_schedules_and_of_runs_that_have_not_begun_a_resume_says_nothing(lab: Lab) -> None:
    number = interrupted(lab, TINY)
    assert "cosine" not in lab.call("resume", number, "--set", "num_epochs=20").err
    waiting = lab.submit(COSINE)
    lab.call("interrupt", waiting)
    assert "cosine" not in lab.call("resume", waiting, "--set", "num_epochs=20").err


def test_a_run_that_stays_on_the_cpu_beside_gpus_says_how_to_change_that(lab: Lab) -> None:
    number = interrupted(lab, TINY)
    lab.serve(gpus=2)
    said = (
        "run 1 began where there was no GPU, and stays on the CPU: to change that, interrupt it and "
        "`python -m runner resume 1 --set runner.gpus=auto`"
    )
    assert said in lab.call("resume", number).err.splitlines()
    lab.call("interrupt", number)
    done = lab.call("resume", number, "--set", "runner.gpus=auto")
    assert "GPU" not in done.err
    assert lab.run(number).gpus == "auto"  # which the scheduler makes one GPU


@pytest.mark.parametrize(
    ("text", "gpus_at_the_start", "gpus_now"),
    [
        (TINY, 0, 0),
        (TINY, 1, 2),
        (TINY + "runner: {gpus: 0}\n", 0, 2),
        (TINY + "use_cuda: false\n", 0, 2),
    ],
)
def test_a_run_that_has_a_gpu_or_wants_none_hears_nothing_of_gpus(
    lab: Lab, text: str, gpus_at_the_start: float, gpus_now: float
) -> None:
    number = interrupted(lab, text, gpus_at_the_start)
    lab.serve(gpus=gpus_now)
    assert "GPU" not in lab.call("resume", number).err
