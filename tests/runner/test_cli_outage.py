"""A database server that goes away for some seconds while a command stays with a run."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import postgres
import pytest
from cli_harness import Lab
from patience import PATIENCE, wait_until

from runner import exits, service
from runner.following import TimedOut, patiently
from runner.states import State
from runner.store import Store, Unreachable


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    """A PostgreSQL server of these tests' own, which they may stop."""
    if (reason := postgres.missing()) is not None:
        pytest.skip(reason)
    with postgres.server("fsync=off") as server:
        yield server


@pytest.fixture
def lab(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    server: postgres.Server,
) -> Iterator[Lab]:
    lab = Lab(tmp_path, monkeypatch, capsys, server.new_database())
    lab.become_a_laptop()
    lab.serve()
    yield lab
    lab.close()


def begin(lab: Lab, words: Sequence[object]) -> subprocess.Popen[str]:
    return subprocess.Popen(lab.command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def looks(server: postgres.Server, lab: Lab) -> bool:
    """Return whether another process than this one has queried the queue for 2 seconds or more."""
    lab.store.close()  # drops our own connections; the store makes new ones
    query = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND state_change > backend_start + interval '2 s'"
    )
    name = (lab.home.database_url or "").rpartition("/")[2]
    return bool(server.execute(query, [name]))


def train(lab: Lab, number: int) -> None:
    lab.start(number)
    lab.report(number, epoch=1, loss=1.0, computes="float32")
    lab.store.add_log(number, 1, 0, b"first\n")


def finish(lab: Lab, number: int) -> None:
    lab.store.add_log(number, 1, 6, b"last\n")
    lab.store.add_log(number, 1, 11, b"")
    lab.end(number, State.FINISHED)


def go_away_for_a_while(server: postgres.Server, follower: subprocess.Popen[str]) -> str:
    """Stop the server while the follower reads, and start it again; return the follower's first message."""
    assert follower.stderr
    server.stop()
    try:
        said = next(line for line in follower.stderr if "run 1" not in line)
        time.sleep(3)  # for some more looks in vain
        assert follower.poll() is None, said
    finally:
        server.start()
    return said


@pytest.mark.slow
def test_what_was_queued_before_the_database_went_away_is_not_said_to_be_not_queued(
    server: postgres.Server, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_alive = service.is_alive

    def look_at_last(store: Store, now: float) -> bool:
        server.stop()
        return is_alive(store, now)

    monkeypatch.setattr(service, "is_alive", look_at_last)
    try:
        done = lab.call("submit", lab.file())
    finally:
        server.start()
    assert (done.code, done.out) == (exits.OK, "1\n")
    assert "queued, but whether a scheduler serves it is not known: " in done.err
    assert "queued run 1" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("words", [["wait", 1], ["watch", 1], ["watch"], ["logs", 1, "-f"]])
def test_who_stays_with_a_run_outlives_a_restart_of_the_database(
    server: postgres.Server, lab: Lab, words: list[object]
) -> None:
    number = lab.submit()
    train(lab, number)
    with begin(lab, words) as follower:
        wait_until(lambda: looks(server, lab))
        said = go_away_for_a_while(server, follower)
        finish(lab, number)
        out, rest = follower.communicate(timeout=PATIENCE)
    assert "going on as soon as it answers" in said and postgres.PASSWORD not in said
    assert "going on" not in rest and "Traceback" not in rest
    assert follower.returncode == 0
    if words[0] == "logs":
        assert out == "first\nlast\n"
    if words[0] == "watch":
        assert "run 1 (tiny) is FINISHED" in out


@pytest.mark.slow
def test_submit_follow_outlives_it_too(server: postgres.Server, lab: Lab) -> None:
    with begin(lab, ["submit", lab.file(), "--follow"]) as follower:
        wait_until(lambda: lab.store.run(1))
        train(lab, 1)
        assert follower.stderr
        next(line for line in follower.stderr if "computes in float32" in line)
        said = go_away_for_a_while(server, follower)
        finish(lab, 1)
        out, rest = follower.communicate(timeout=PATIENCE)
    assert "going on as soon as it answers" in said
    assert "run 1 (tiny) is FINISHED" in rest and out == "1\n"
    assert follower.returncode == 0


@pytest.mark.slow
def test_while_it_is_away_other_commands_are_one_line_and_wait_keeps_its_timeout(
    server: postgres.Server, lab: Lab
) -> None:
    number = lab.submit()
    with begin(lab, ["wait", number, "--timeout", "8"]) as waiting:
        wait_until(lambda: looks(server, lab))
        server.stop()
        try:
            done = lab.process("queue")
            assert waiting.wait(PATIENCE) == exits.TIMED_OUT
        finally:
            server.start()
    assert (done.code, done.out) == (exits.USAGE, "")
    assert done.err.count("\n") == 1 and postgres.PASSWORD not in done.err


def test_what_never_answers_is_asked_until_the_deadline_and_said_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.following.RETRY_SECONDS", 0.01)
    asked = []

    def ask() -> int:
        asked.append(1)
        raise Unreachable("lab: does not answer")

    with pytest.raises(TimedOut):
        patiently(ask, time.monotonic() + 0.2)
    assert len(asked) > 2
    assert capsys.readouterr().err == "lab: does not answer; going on as soon as it answers\n"
