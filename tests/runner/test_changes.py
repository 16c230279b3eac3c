"""The column CHANGES: the keys set by `--set`, and those in which runs of one name differ."""

from __future__ import annotations

import json

import pytest
from cli_harness import TINY, Lab

from runner import exits
from runner.changes import LONGEST, changes
from runner.overrides import merged
from runner.states import State


def column(lab: Lab) -> list[str]:
    """The cells of CHANGES, in the order of the runs."""
    found = changes(lab.store.runs())
    return [found[number] for number in sorted(found)]


def submit(lab: Lab, *settings: str, text: str = TINY, name: str = "tiny.yaml") -> None:
    words = [word for setting in settings for word in ("--set", setting)]
    done = lab.call("submit", lab.file(name, text), *words)
    assert done.code == 0, done.err


def test_one_run_of_a_file_has_changed_nothing(lab: Lab) -> None:
    submit(lab)
    assert column(lab) == [""]


def test_runs_of_one_file_with_other_settings_are_told_apart(lab: Lab) -> None:
    submit(lab, "seed=2", "optim.lr=0.002")
    submit(lab, "seed=3")
    submit(lab)
    assert column(lab) == [
        "seed=2 optim.lr=0.002",
        "seed=3 optim.lr=0.001",
        "seed=0 optim.lr=0.001",
    ]


def test_runs_of_a_file_that_was_edited_between_their_submissions_are_told_apart(lab: Lab) -> None:
    submit(lab)
    submit(lab, text=TINY + "batch_size: 16\n")
    assert column(lab) == ["batch_size=128", "batch_size=16"]


def test_no_part_of_a_secret_is_shown(lab: Lab) -> None:
    """A value is shortened, and a part of a URL is not known as one."""
    submit(lab, "runner.tags.a=xxxxxxxxxxxx postgresql://ada:hunter2hunter2@db.example.org/x")
    submit(lab, f"checkpoint.log_dir={lab.folder}/abcd?token=verysecretpassword1234567")
    shown = " ".join(column(lab)) + lab.call("queue").out
    assert "hunter2" not in shown
    assert "password" not in shown


def test_settings_come_before_what_merely_differs(lab: Lab) -> None:
    submit(lab, "optim.lr=0.5", "threads=1")
    submit(lab, text=TINY + "batch_size: 16\n")
    assert column(lab)[0].startswith("threads=1 optim.lr=0.5 batch_size=")


def test_a_setting_is_named_where_no_other_run_has_that_name(lab: Lab) -> None:
    submit(lab, "seed=2")
    submit(lab, text=TINY + "batch_size: 16\n", name="other.yaml")
    assert column(lab) == ["seed=2", ""]


def test_a_section_that_was_set_is_named_key_by_key(lab: Lab) -> None:
    submit(lab, "optim={schedule: cosine, lr: 0.5}")
    assert column(lab) == ["optim.lr=0.5 optim.schedule=cosine"]


def test_another_kind_is_named_without_the_keys_that_come_with_it(lab: Lab) -> None:
    submit(lab)
    submit(lab, "model.decoder.name=none")
    assert column(lab) == [
        "model.decoder.name=fc loss.with_reconstruction=true",
        "model.decoder.name=none loss.with_reconstruction=false",
    ]


def test_a_kind_that_was_set_by_its_word_alone_is_named_and_replaces_no_other_setting(lab: Lab) -> None:
    submit(lab, "optim.schedule=cosine", "optim.lr=0.5", "dataset=mnist")
    assert lab.run(1).overrides == ("optim.schedule=cosine", "optim.lr=0.5", "dataset.name=mnist")
    assert column(lab) == ["dataset.name=mnist optim.lr=0.5 optim.schedule=cosine"]
    lab.call("cancel", 1)
    assert lab.call("resume", 1, "--set", "optim=adam").code == exits.USAGE
    assert lab.call("resume", 1, "--set", "optim.schedule=multistep").code == exits.OK
    assert lab.run(1).overrides == ("optim.lr=0.5", "dataset.name=mnist", "optim.schedule=multistep")


def test_name_priority_and_tags_are_no_changes_of_what_is_trained(lab: Lab) -> None:
    lab.call("submit", lab.file(), "--name", "tiny", "--priority", 5)
    submit(lab, text=TINY + "runner: {tags: {a: b}}\n")
    assert column(lab) == ["", ""]
    submit(lab, "runner.priority=3", "runner.tags.a=c", "name=tiny")
    assert column(lab) == ["", "", "runner.priority=3 runner.tags.a=c"]
    lab.call("priority", 3, 8)
    assert column(lab)[2] == "runner.priority=8 runner.tags.a=c"


def test_a_resume_shows_the_values_that_hold_from_then_on(lab: Lab) -> None:
    number = lab.submit()
    lab.call("cancel", number)
    assert lab.call("resume", number, "--set", "optim.lr=0.5", "--set", "num_epochs=20").code == 0
    lab.call("cancel", number)
    lab.call("resume", number, "--set", "optim.lr=0.25")
    assert lab.run(number).overrides == ("num_epochs=20", "optim.lr=0.25")
    assert column(lab) == ["num_epochs=20 optim.lr=0.25"]


@pytest.mark.parametrize(
    ("before", "later", "after"),
    [
        (("seed=1",), ("num_epochs=2",), ("seed=1", "num_epochs=2")),
        (("optim.lr=1", "seed=1"), ("optim.lr=2",), ("seed=1", "optim.lr=2")),
        (("optim.lr=1", "optim.schedule=cosine"), ("optim={lr: 3}",), ("optim={lr: 3}",)),
        (("optim={lr: 3}",), ("optim.lr=4",), ("optim={lr: 3}", "optim.lr=4")),
        (("optimal=1",), ("optim=2",), ("optimal=1", "optim=2")),
    ],
)
def test_a_later_setting_takes_the_place_of_an_earlier_one(
    before: tuple[str, ...], later: tuple[str, ...], after: tuple[str, ...]
) -> None:
    assert merged(before, later) == after


def test_what_does_not_fit_is_counted_and_no_value_is_cut_into_another(lab: Lab) -> None:
    submit(
        lab,
        *(f"{key}=7" for key in ("seed", "batch_size", "route_iters", "num_epochs", "threads")),
        "optim.lr=7",
    )
    [text] = column(lab)
    assert len(text) <= LONGEST
    assert text.endswith(" more") and all(item.endswith("=7") for item in text.split(" and ")[0].split())


def test_a_long_value_is_visibly_shortened(lab: Lab) -> None:
    submit(lab, f"dataset={{name: mnist, root: /data/{'x' * 50}/here}}")
    assert column(lab) == [f"dataset.root=...{'x' * 24}/here and 1 more"]
    milestones = [*range(1, 40)]
    submit(lab, f"optim.milestone={milestones}", name="m.yaml")
    assert column(lab)[1] == "optim.milestone=[1, 2, 3, 4, 5, 6, 7, 8, 9, 1..."


def test_control_characters_of_a_setting_never_reach_the_terminal(lab: Lab) -> None:
    submit(lab, 'runner.tags.a="\\e[2J"')
    shown = lab.call("queue").out + lab.call("show", 1).out
    assert "\x1b" not in shown and "\\e[2J" in shown


def test_json_has_the_settings_and_the_whole_configuration(lab: Lab) -> None:
    lab.serve()
    done = lab.call("submit", lab.file(), "--set", "optim.lr=0.5", "--json")
    lab.start(1)
    lab.end(1, State.FAILED)
    documents = [
        json.loads(done.out)[0],
        json.loads(lab.call("queue", "--json").out)[0],
        json.loads(lab.call("show", 1, "--json").out),
        json.loads(lab.call("wait", 1, "--json").out)[0],
        json.loads(lab.call("resume", 1, "--json").out),
        json.loads(lab.call("cancel", 1, "--json").out)[0],
    ]
    for found in documents:
        assert found["overrides"] == ["optim.lr=0.5"]
        assert (found["config"]["optim"]["lr"], found["config"]["num_epochs"]) == (0.5, 10)
        assert found["config"]["dataset"]["name"] == "digits"


def test_show_has_every_key_and_the_settings(lab: Lab) -> None:
    submit(lab, "optim.lr=0.5")
    lines = lab.call("show", 1).out.splitlines()
    assert "set         optim.lr=0.5" in lines
    shown = lines[lines.index("configuration") + 1 :]
    assert "num_epochs=10" in shown[0] and "seed=0" in shown[0]
    assert any(line.split()[0] == "optim" and " lr=0.5 " in line for line in shown)
    assert any(line.split()[0] == "model" and "decoder.hidden=[512, 1024]" in line for line in shown)
