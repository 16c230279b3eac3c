"""Messages between a scheduler and workers of different versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner import protocol, storage
from runner.attempt import Assignment, Standing, Status
from runner.rows import ProgressFields


@pytest.fixture
def assignment(tmp_path: Path) -> Assignment:
    given = Assignment(str(tmp_path), 1, "small", 1, "node", "", cpus=1.0, gpus=0.0, use_best=False)
    given.paths.folder.mkdir(parents=True)
    return given


def sent(values: dict) -> dict:
    """Return values as they arrive after sending: JSON holds plain values only."""
    return json.loads(json.dumps(values))


def test_an_assignment_arrives_as_it_was_sent(assignment: Assignment) -> None:
    assert Assignment.of(sent(assignment.plain())) == assignment


def test_an_older_worker_passes_over_what_it_does_not_know(assignment: Assignment) -> None:
    assert Assignment.of({**assignment.plain(), "of_a_later_version": [1, 2]}) == assignment


def test_an_assignment_of_the_oldest_scheduler_is_understood() -> None:
    """The first version of the protocol sent these fields; a later field needs a default."""
    values = {"home": "/", "run": 1, "name": "a", "attempt": 1, "node": "", "config": "num_epochs: 1"}
    made = Assignment.of({**values, "cpus": 1.0, "gpus": 0.5, "use_best": True})
    assert (made.run, made.gpus, made.use_best, made.config) == (1, 0.5, True, "num_epochs: 1")


def test_a_status_arrives_as_it_was_sent(assignment: Assignment) -> None:
    standing = Standing(assignment)
    standing.note(epoch=2, metrics={"test/accuracy": 0.5})
    standing.end("failed", "no")
    found = Status.of(sent(standing.status.plain()))
    assert found.node == "node" and found.ending == standing.status.ending
    assert (found.fields.get("epoch"), found.fields.get("metrics")) == (2, {"test/accuracy": 0.5})
    assert isinstance(found.fields.get("devices"), tuple)


def test_a_scheduler_passes_over_what_a_newer_worker_says_beyond_its_own_knowledge(
    assignment: Assignment,
) -> None:
    standing = Standing(assignment)
    standing.end("finished")
    said = sent(standing.status.plain())
    said["fields"]["mood"] = "good"
    said["ending"]["colour"] = "green"
    said["more"] = 1
    found = Status.of(said)
    assert found.ending == standing.status.ending
    assert set(found.fields) <= set(ProgressFields.__annotations__)


def test_an_outcome_on_disk_with_more_than_is_known_counts(assignment: Assignment) -> None:
    storage.write_ending(assignment.paths, storage.Ending(1, "finished", None, 5.0))
    said = json.loads(assignment.paths.outcome.read_text())
    assignment.paths.outcome.write_text(json.dumps({**said, "colour": "green"}))
    assert storage.read_ending(assignment.paths) == storage.Ending(1, "finished", None, 5.0)


def test_code_of_a_protocol_that_is_not_spoken_is_refused_with_what_to_do() -> None:
    assert protocol.cannot_speak(protocol.PROTOCOL) is None
    newer = protocol.cannot_speak(max(protocol.SPOKEN) + 1)
    older = protocol.cannot_speak(min(protocol.SPOKEN) - 1)
    assert newer and "`down` and `up`" in newer
    assert older and "`resume --new-code`" in older
