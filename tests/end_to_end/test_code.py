"""A run has the code of its submission, whatever is edited in the checkout that it was submitted from."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from end_to_end.harness import Service
from end_to_end.test_faults import ENDLESS, stop
from patience import wait_until
from sqlalchemy import text

from runner import source
from runner.private import runner_folder
from runner.states import State
from runner.store import open_store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # what MLflow does with SQLAlchemy
]
TRAINING = "runner/keeper.py"  # imported by every worker, once its output is logged
SCHEDULER = "runner/scheduler.py"
BROKEN = "def broken(:"


class Checkout:
    """A copy of our packages that tests edit, and in which they give commands."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self._files = source.here().files
        source.write(self._files, folder)
        variables = {"RUNNER_GPUS": "1", "PYTHONPATH": str(folder)}
        self.service = Service(home, variables, directory=folder)

    @property
    def code(self) -> str:
        packages = {package: self.folder / package for package in source.PACKAGES}
        return source.digest(source.read(packages))

    def edit(self, name: str, line: str) -> None:
        """Append a line to a file as it was at first; an empty line restores the file."""
        (self.folder / name).write_bytes(self._files[name] + f"{line}\n".encode() * bool(line))

    def mend(self) -> None:
        """Restore all files that tests edit."""
        for name in (TRAINING, SCHEDULER):
            self.edit(name, "")

    def say(self, word: str) -> None:
        """Edit the training code so that each worker with this code prints `word`."""
        self.edit(TRAINING, f"print('the code says {word}', flush=True)")


@pytest.fixture(scope="module")
def checkout(ray_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    checkout = Checkout(tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("home"))
    checkout.service.call("up")
    yield checkout
    checkout.mend()
    checkout.service.call("down", "--force")


@pytest.fixture
def service(checkout: Checkout) -> Service:
    checkout.mend()
    return checkout.service


def words(service: Service, number: int, attempt: int = 1) -> list[str]:
    """Return the last word of each line of an attempt's log that starts with "the code says"."""
    log = service.home.run(number, "small").attempt(attempt).log.read_text()
    return [line.rpartition(" ")[2] for line in log.splitlines() if line.startswith("the code says")]


def code_shown(service: Service, number: int) -> str:
    lines = service.call("show", str(number)).stdout.splitlines()
    (code,) = (line.split()[1] for line in lines if line.startswith("code "))
    return code.rstrip(",")


def test_a_run_that_waits_while_the_checkout_is_edited_trains_with_what_was_submitted(
    checkout: Checkout, service: Service, small: Path
) -> None:
    blocker = service.submit(small, ENDLESS)
    service.training(blocker)
    checkout.say("one")
    first, code = service.submit(small, "num_epochs=1"), checkout.code
    checkout.edit(TRAINING, BROKEN)
    second = service.submit(small, "num_epochs=1")
    assert service.run(first).state is State.QUEUED
    stop(service, blocker)
    service.wait_for_state(first, State.FINISHED)
    assert words(service, first) == ["one"]
    failed = service.wait_for_state(second, State.FAILED)
    assert failed.reason is not None
    assert failed.reason.startswith("SyntaxError: invalid syntax (keeper.py, line ") and failed.attempt == 1
    shown = [code_shown(service, number) for number in (first, second)]
    assert shown == [source.short(code), source.short(checkout.code)] and shown[0] != shown[1]
    # The mistake is mended, and the run goes on with that.
    checkout.say("two")
    service.call("resume", str(second), "--new-code")
    service.wait_for_state(second, State.FINISHED)
    assert words(service, second, attempt=2) == ["two"]


def test_code_that_its_worker_cannot_be_made_of_fails_its_run_alone(
    checkout: Checkout, service: Service, small: Path
) -> None:
    worker = "runner/worker.py"
    checkout.edit(worker, BROKEN)
    broken = service.submit(small, "num_epochs=1")
    checkout.edit(worker, "")
    sound = service.submit(small, "num_epochs=1")
    failed = service.wait_for_state(broken, State.FAILED)
    assert (failed.reason or "").startswith("SyntaxError: invalid syntax (worker.py, line ")
    service.wait_for_state(sound, State.FINISHED)


def test_runs_whose_code_cannot_be_run_any_more_say_what_to_do_and_one_without_any_has_the_schedulers(
    checkout: Checkout, service: Service, small: Path
) -> None:
    blocker = service.submit(small, ENDLESS)
    service.training(blocker)
    checkout.say("newer")
    newer, gone, old = (service.submit(small, "num_epochs=1") for _ in range(3))
    with open_store(service.home) as store, store._database.writer.begin() as connection:
        connection.execute(text(f"UPDATE sources SET protocol = 99 WHERE digest = '{checkout.code}'"))
        connection.execute(text(f"UPDATE runs SET code = '{'0' * 64}' WHERE id = {gone}"))
        connection.execute(text(f"UPDATE runs SET code = NULL WHERE id = {old}"))  # of an earlier version
    stop(service, blocker)
    assert "speaks protocol 99" in (service.wait_for_state(newer, State.FAILED).reason or "")
    assert "--new-code" in (service.wait_for_state(gone, State.FAILED).reason or "")
    service.wait_for_state(old, State.FINISHED)
    assert words(service, old) == []
    checkout.edit(TRAINING, "")
    service.call("resume", str(gone), "--new-code")
    service.wait_for_state(gone, State.FINISHED)


def test_a_resumed_run_keeps_its_code_until_it_is_given_new_code(
    checkout: Checkout, service: Service, small: Path
) -> None:
    checkout.say("old")
    number = service.submit(small, ENDLESS)
    service.training(number)
    stop(service, number)
    checkout.say("new")
    service.call("resume", str(number))
    service.training(number, attempt=2)
    stop(service, number)
    service.call("resume", str(number), "--new-code")
    service.training(number, attempt=3)
    stop(service, number)
    assert [words(service, number, attempt) for attempt in (1, 2, 3)] == [["old"], ["old"], ["new"]]
    with open_store(service.home) as store:
        codes = [attempt.code for attempt in store.attempts(number)]
    assert codes[0] == codes[1] != codes[2] == checkout.code


def test_a_scheduler_that_is_killed_comes_back_with_its_own_code(
    checkout: Checkout, service: Service, small: Path
) -> None:
    number = service.submit(small, ENDLESS)
    service.training(number)
    with open_store(service.home) as store:
        before = store.scheduler_beat()
    assert before is not None and before.pid is not None
    checkout.edit(SCHEDULER, BROKEN)
    os.kill(before.pid, signal.SIGKILL)

    def another() -> bool:
        with open_store(service.home) as store:
            beat = store.scheduler_beat()
        return beat is not None and beat.epoch > before.epoch and beat.code == before.code

    wait_until(another, "the scheduler's next epoch")
    assert service.run(number).attempt == 1
    stop(service, number)


@pytest.mark.rehearsal
def test_after_down_and_up_from_an_edited_checkout_a_run_has_its_own_code_and_the_scheduler_the_new_one(
    checkout: Checkout, service: Service, small: Path
) -> None:
    checkout.say("before")
    number, code = service.submit(small, ENDLESS), checkout.code
    service.training(number)
    service.call("down")
    checkout.say("after")
    service.call("up")
    service.training(number, attempt=2)
    assert words(service, number, attempt=2) == ["before"]
    assert service.run(number).code == code
    assert f", code {source.short(checkout.code)}," in service.call("status").stdout
    stop(service, number)


@pytest.mark.rehearsal
def test_folders_that_were_tampered_with_on_a_node_are_made_anew(
    checkout: Checkout, service: Service, small: Path
) -> None:
    checkout.say("whole")
    number = service.submit(small, "num_epochs=1")
    service.wait_for_state(number, State.FINISHED)
    (source_folder(service, number) / TRAINING).write_text("raise SystemExit('tampered with')\n")
    again = service.submit(small, "num_epochs=1")
    service.wait_for_state(again, State.FINISHED)
    assert words(service, again) == ["whole"]


def source_folder(service: Service, number: int) -> Path:
    """Where the source of a run lies on this machine."""
    code = service.run(number).code
    assert code is not None
    return runner_folder() / "code" / code
