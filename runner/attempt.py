"""One attempt of one run: training, saving, ending. Uses neither Ray nor the database nor MLflow."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self, Unpack, cast

from runner import loading, protocol, storage, versions, workplace
from runner.guest import described, is_of_the_code, located
from runner.orders import Orders
from runner.ownership import PlaceTaken
from runner.paths import AttemptPaths, Home, RunPaths
from runner.redaction import redacted
from runner.rows import ProgressFields
from runner.storage import EndingKind
from runner.system_metrics import visible_gpus
from runner.wording import OTHER_DATA, beginning, run_label
from runner.workplace import Workplace

if TYPE_CHECKING:
    from capsnet.config import Config
    from capsnet.group import Group
    from capsnet.history import Row
    from capsnet.patience import Trouble
    from capsnet.state import State
    from capsnet.training import Progress

LINGER_SECONDS = 10.0  # before rank 0 follows another worker that has gone


@dataclass(frozen=True)
class Assignment:
    """Everything that the scheduler hands to a worker, which learns nothing else about the queue."""

    home: str
    run: int
    name: str
    attempt: int
    node: str  # its id
    config: str  # the resolved YAML
    cpus: float
    gpus: float
    use_best: bool
    submit_python: str | None = None  # versions at the submission
    submit_torch: str | None = None
    storage: str | None = None  # as `Home.storage`
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)  # how to reach it; may hold secrets
    rank: int = 0  # among the run's workers, of which each has these cores and GPUs
    workers: int = 1
    address: str = ""  # of the host of rank 0, as the others reach it
    saved_epochs: int = 0  # that earlier attempts have saved
    identity: str | None = None  # of the run; None: it has none

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Build an assignment from the values of `plain`, perhaps of another version."""
        return cls(**protocol.known(cls, values))

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def workplace(self) -> Workplace:
        """Where this worker keeps its files, which is there once it was opened."""
        home = Home(Path(self.home), storage=self.storage)
        return workplace.of(home, self.run, self.name, self.attempt, self.config, self.rank, self.identity)

    @property
    def run_paths(self) -> RunPaths:
        return self.workplace.run

    @property
    def paths(self) -> AttemptPaths:
        return self.run_paths.attempt(self.attempt)


@dataclass(frozen=True)
class Status:
    """State of an attempt at one moment, as its worker reports it."""

    node: str
    fields: ProgressFields
    ending: storage.Ending | None
    meets_at: str | None = None  # where the run's other workers are to join this one
    trained: bool = False  # it takes no more steps, and needs the run's other workers no more

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Build a status from the values of `plain`, perhaps of another version."""
        said, ending = values["fields"], values["ending"]
        fields = {name: said[name] for name in ProgressFields.__annotations__ if name in said}
        fields["devices"] = tuple(fields.get("devices", ()))
        found = None if ending is None else storage.Ending(**protocol.known(storage.Ending, ending))
        others = values.get("meets_at"), values.get("trained", False)
        return cls(values["node"], cast(ProgressFields, fields), found, *others)

    def plain(self) -> dict[str, Any]:
        return asdict(self)


class Standing:
    """State of the attempt, which other threads may read."""

    def __init__(self, assignment: Assignment, place: Workplace | None = None) -> None:
        """`place`: where the attempt works, if it was opened already."""
        self.place = place or assignment.workplace
        self._assignment = assignment
        self._lock = threading.Lock()
        python, torch = versions.here()
        self._fields = ProgressFields(
            host=socket.gethostname(), pid=os.getpid(), devices=visible_gpus(), python=python, torch=torch
        )
        self._ending: storage.Ending | None = None
        self._ends = False
        self._training = False
        self._meets_at: str | None = None
        self._trained = False
        self._kept: Row | None = None

    @property
    def status(self) -> Status:
        with self._lock:
            return Status(self._assignment.node, self._fields, self._ending, self._meets_at, self._trained)

    def wait_at(self, address: str) -> None:
        """Set the address at which the run's other workers are to join."""
        self._meets_at = address

    def take_no_more_steps(self) -> None:
        """Note that training is over: from now on the run does not need its other workers."""
        self._trained = True

    def note(self, **fields: Unpack[ProgressFields]) -> None:
        with self._lock:
            self._fields = cast(ProgressFields, {**self._fields, **fields})
            self._training = self._training or "step" in fields

    def note_trouble(self, trouble: Trouble | None) -> None:
        """Report, for the row, why nothing can be saved at the moment; None: it can again."""
        self.note(reason=None if trouble is None else str(trouble))

    def keep(self, row: Row | None) -> None:
        """Note the newest epoch that is durable."""
        self._kept = row

    def end(self, kind: EndingKind, reason: str | None = None) -> None:
        """Record how the attempt ended, once: first beside its files, then in the status."""
        reason = None if reason is None else redacted(reason)
        with self._lock:
            if self._ends:
                return
            self._ends = True
            epochs = self._fields.get("durable_epoch") if kind == "finished" else None
        ending = storage.Ending(self._assignment.attempt, kind, reason, time.time(), epochs, self._kept)
        try:
            if self._assignment.rank == 0:  # the end of another worker is not the attempt's
                self.place.end(ending)  # may take seconds, in which the status can still be read
        except OSError as error:  # a full disk: the status has the ending all the same
            print(f"its outcome could not be written: {error}", flush=True)
        with self._lock:
            self._ending = ending

    def end_unless_training(self) -> None:
        """End as stopped an attempt that has nothing to save yet: importing and reading data take seconds."""
        if not self._training:
            self.end("stopped")


def perform(assignment: Assignment, orders: Orders, standing: Standing) -> None:
    """Run the attempt to its end."""
    kind, reason = _performed(assignment, orders, standing)
    standing.place.leave()
    standing.end(kind, reason)


def _performed(assignment: Assignment, orders: Orders, standing: Standing) -> tuple[EndingKind, str | None]:
    """Run the attempt, make its files durable where that is possible, and return how it ended, and why."""
    kind: EndingKind = "failed"
    reason = None
    patience = 0.0  # of one that failed: perhaps because nothing could be saved for long enough
    prevented = hindrance()
    if taken := place_taken(assignment, standing, patient=prevented is None):
        return prevented or ("failed", taken)
    if prevented is not None:
        kind, reason = prevented
    else:
        try:
            kind, reason = _train(assignment, orders, standing)
            patience = _patience(assignment)
        except BaseException as error:  # SystemExit too: a thread that just ends would hold its GPU for ever
            _leave_with_the_others(error, standing)
            reason = explained(error, assignment)
    try:
        standing.place.settle(patience, standing.note_trouble)
    except OSError as error:
        print(f"failed: {error}", flush=True)
        return ("unable" if kind == "unable" else "failed"), reason or str(error)
    return kind, reason


def place_taken(assignment: Assignment, standing: Standing, patient: bool) -> str | None:
    """Return why this attempt must not write anything where its run's files belong, in one line.

    `patient`: a storage that fails is tried again.
    """
    try:
        standing.place.claim(_patience(assignment) if patient else 0.0, standing.note_trouble)
    except (PlaceTaken, OSError) as error:
        print(f"failed: {error}", flush=True)
        return str(error)
    except Exception as error:  # such as a configuration that this code does not know
        return explained(error, assignment)
    return None


def _leave_with_the_others(error: BaseException, standing: Standing) -> None:
    """End this process where another worker of the run has gone: the run is lost then, and has not failed.

    Waits first, so that the scheduler, which asks all workers, learns why the other one has gone.
    """
    from capsnet.group import GroupLost

    if isinstance(error, GroupLost):
        print(f"rank 0 ends: {error}", flush=True)
        with contextlib.suppress(OSError):  # what could not be kept of its log is lost with it
            standing.place.settle(0.0, standing.note_trouble)
        time.sleep(LINGER_SECONDS)
        standing.place.leave()
        os._exit(1)


def hindrance() -> tuple[EndingKind, str] | None:
    """Return why no run can train here, None where runs can.

    The kind is "unable" where this machine lacks something, "failed" where the code runs on no machine.
    """
    try:
        from capsnet import training
        from runner import keeper
    except Exception as error:  # something is missing on this machine, or the code cannot be run on any
        traceback.print_exception(error)
        if is_of_the_code(error):
            return "failed", located(error)
        return "unable", described(error)
    del training, keeper
    return None


def _patience(assignment: Assignment) -> float:
    """Return for how many seconds a storage that fails is tried again."""
    from capsnet.patience import TRIES

    config = loading.parse(assignment.config, str(assignment.run_paths.config)).config
    return TRIES * config.checkpoint.interval_seconds


def leave() -> NoReturn:
    """End this process as it is: no scheduler asks for the attempt, so the run may go on elsewhere."""
    print("nobody has asked for this attempt for a while: it leaves and saves nothing", flush=True)
    os._exit(0)


def explained(error: BaseException, assignment: Assignment) -> str:
    """Print the error and return it as one line; print a traceback where the user cannot mend it."""
    from capsnet.checkpoint import CheckpointError
    from capsnet.datasets import DataError
    from capsnet.group import GroupError
    from capsnet.patience import SavingError
    from capsnet.training import TrainingError
    from capsnet.yamlfile import ConfigError

    ours = CheckpointError | DataError | GroupError | SavingError | TrainingError | ConfigError
    if isinstance(error, ours):
        print(f"failed: {error}", flush=True)
        line = "; ".join(str(error).splitlines())
        return f"{line}; {_ways_to_data(assignment)}" if "dataset.root" in line else line
    traceback.print_exception(error)
    return traceback.format_exception_only(error)[-1].splitlines()[0]


def _ways_to_data(assignment: Assignment) -> str:
    """Return what the user can do where this host lacks the data."""
    resume = f"resume this run with {OTHER_DATA}"
    config = loading.parse(assignment.config, str(assignment.run_paths.config)).config
    if getattr(config.dataset, "root", None) is not None:
        return resume  # it has its own root since its submission: CAPSNET_DATA changes nothing for it
    return f"set CAPSNET_DATA where Ray is started on {socket.gethostname()}, or {resume}"


def _train(assignment: Assignment, orders: Orders, standing: Standing) -> tuple[EndingKind, str | None]:
    """Train to the end or until stopped; return how it ended, and why where it was before the last epoch.

    What was reached is durable on return.
    """
    from capsnet import notices, stopping, training
    from capsnet.execution import device_of
    from runner.keeper import AttemptKeeper

    experiment = loading.parse(assignment.config, str(assignment.run_paths.config))
    config = experiment.config
    standing.place.fetch_earlier(_patience(assignment), standing.note_trouble)
    state = _earlier_state(assignment, config)
    as_before = (
        state is not None
        and state["execution"].get("workers", 1) == assignment.workers
        and state["execution"]["device"] == device_of(config)
        and experiment.spec.cpus == "auto"  # a number holds, also one that a resume has set
    )
    if not as_before and config.threads is None:  # later attempts use as many: the last bits depend on it
        config = config.model_copy(update={"threads": max(1, int(assignment.cpus))})
    _greet(assignment, config, state)
    begun = (state["epoch"], state["step"]) if state is not None else (0, 0)
    label = run_label(assignment.run, assignment.name)
    standing.note(from_epoch=begun[0], from_step=begun[1])
    allowed = config.stop_after_epochs_without_gain
    if state is not None and stopping.is_over(state["history"], config.num_epochs, allowed):
        _take_over(assignment, state, standing)
        return "finished", stopping.stopped_early(state["history"], config.num_epochs, allowed)
    with (
        notices.shown(sys.stdout),
        _together(assignment, config, standing) as group,
        AttemptKeeper(
            standing.place,
            assignment.paths,
            config,
            state,
            label,
            standing.note_trouble,
            standing.keep,
            assignment.identity,
        ) as keeper,
    ):
        for progress in training.train(config, state, group=group):
            if orders.abandoned:
                leave()
            last = orders.stopped
            keeper.see(progress, last)
            standing.note(**_report(progress))
            standing.note(**keeper.durable)
            if keeper.complete:
                keeper.settle()  # a run that dies while it draws has lost nothing but its pictures
                standing.note(**keeper.durable)
                keeper.draw(progress)
            if last:
                break
        standing.take_no_more_steps()
    standing.note(**keeper.durable)
    return ("finished", keeper.stopped_early) if keeper.complete else ("stopped", None)


@contextmanager
def _together(assignment: Assignment, config: Config, standing: Standing) -> Iterator[Group]:
    """Yield the group of the run's workers, led by this one; without others this one alone."""
    from capsnet import group
    from capsnet.execution import device_of

    if assignment.workers == 1:
        yield group.ALONE
        return
    store = group.host()
    standing.wait_at(f"{assignment.address}:{store.port}")
    device = device_of(config)
    with group.joined(
        0, assignment.workers, store, device, group.TIMEOUT_SECONDS, assignment.address
    ) as all_:
        yield all_


def _take_over(assignment: Assignment, state: State, standing: Standing) -> None:
    """Make a state with nothing left to train this attempt's own, so that it has a result like any other."""
    from capsnet.checkpoint import save
    from capsnet.history import metrics_of
    from capsnet.patience import persist
    from runner.keeper import owned

    def keep() -> None:
        save(owned(state, assignment.identity), assignment.paths.checkpoint)
        standing.place.save()

    persist(keep, _patience(assignment), standing.note_trouble)
    standing.note(durable_epoch=state["epoch"], durable_step=state["step"])
    if state["history"]:
        metrics = metrics_of(state["history"][-1])
        standing.note(epoch=state["epoch"], metrics=metrics, accuracy=metrics["test/accuracy"])
    figures = f"python -m runner figures {assignment.run}"
    print(f"there was nothing left to train; `{figures}` draws what is missing", flush=True)


def _earlier_state(assignment: Assignment, config: Config) -> State | None:
    """Return the newest whole state that this run, or the file that it is to go on from, has left."""
    from capsnet.checkpoint import DamageError, load, locate, previous_path
    from capsnet.state import from_best

    damaged = None
    for number in range(assignment.attempt - 1, 0, -1):
        path = assignment.run_paths.attempt(number).checkpoint
        if not path.exists() and not previous_path(path).exists():
            continue
        try:
            state = load(path)
        except DamageError as error:
            damaged = error
            warnings.warn(f"{error}; looking further back", stacklevel=2)
        else:
            _require_own(state, assignment, path)
            print(f"goes on from {path}", flush=True)
            return from_best(state) if assignment.use_best else state
    if damaged is not None:  # to begin anew would throw away what the user thinks is there
        raise damaged
    if assignment.saved_epochs:
        epochs = "an epoch" if assignment.saved_epochs == 1 else f"{assignment.saved_epochs} epochs"
        print(f"earlier attempts had saved {epochs}, but no checkpoint is there any more", flush=True)
    settings = config.checkpoint
    if settings.use_checkpoint and settings.model_path:
        path = locate(settings.model_path)
        if path.exists():
            print(f"goes on from {path}", flush=True)
            state = load(path)
            return from_best(state) if settings.use_best else state
        print(f"there is no {path} to go on from: it begins at the first epoch", flush=True)
    return None


def _require_own(state: State, assignment: Assignment, path: Path) -> None:
    """Raise CheckpointError where a state in the run's own folder is another run's."""
    from capsnet.state import CheckpointError

    if state.get("run") not in (None, assignment.identity):
        raise CheckpointError(f"{path} was saved by another run: remove it, or submit this run again")


def _greet(assignment: Assignment, config: Config, state: State | None) -> None:
    """Print the first lines of the log: run, attempt, GPUs or cores, host and versions."""
    import torch

    gpus = ", ".join(visible_gpus())
    cores = f"{assignment.cpus:g} CPU core{'' if assignment.cpus == 1 else 's'}"
    where = f"GPU {gpus}" if gpus else cores
    if assignment.gpus == 0 and config.use_cuda:
        where += " (no GPU in this cluster)"
    if assignment.workers > 1:
        where = f"{assignment.workers} workers, the first one on {where}"
    done = f", {beginning(state['epoch'], state['step'])}" if state else ""
    print(
        f"run {assignment.run} ({assignment.name}), attempt {assignment.attempt}: {where} of "
        f"{socket.gethostname()}, PyTorch {torch.__version__}{done}",
        flush=True,
    )
    submitted = versions.Versions(assignment.submit_python, assignment.submit_torch)
    for difference in versions.differences(versions.here(), submitted):
        print(f"here is {difference}", flush=True)


def _report(progress: Progress) -> ProgressFields:
    """Return the fields of the run's row for the present progress of training."""
    fields = ProgressFields(
        epoch=progress.epoch,
        step=progress.step,
        steps_per_epoch=progress.steps_per_epoch,
        images_per_second=progress.images_per_second,
        loss=progress.loss,
        seconds_left=progress.seconds_left,
        computes=progress.execution.summary,
    )
    if progress.metrics is not None:
        fields["metrics"] = dict(progress.metrics)
        fields["accuracy"] = progress.metrics["test/accuracy"]
    return fields
