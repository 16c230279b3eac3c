"""Changes of a run's row on each move: pure functions, whose results the store writes.

Every function takes the row as it is and returns the columns that change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from capsnet.history import Row, metrics_of
from runner.rows import Intent, NewRun, ProgressFields, Run, Wants, Wish
from runner.states import ENDED, Event, IllegalMove, State, move

Changes = dict[str, Any]

INTENDED: Mapping[Wish, Event] = {"interrupt": Event.INTERRUPT, "cancel": Event.CANCEL}
NO_INTENT: Changes = {"intent": None, "intent_at": None, "grace_seconds": None}
NOWHERE = (-1, -1)  # before any checkpoint, as (epochs, steps)
# Fields of a worker's report that its attempt's row keeps too.
OF_ATTEMPT = frozenset({"host", "pid", "devices", "from_epoch", "from_step", "computes"})


def added(new: NewRun, identity: str, now: float) -> Changes:
    """Return the row of a run that is new to the queue; `identity`: 32 random hexadecimal digits."""
    start = {"state": State.QUEUED, "attempt": 0, "losses": 0, "use_best": False}
    return {**vars(new), **start, "identity": identity, "submitted_at": now, "queued_at": now}


def claimed(run: Run, now: float, gpus: float, after: int = 0) -> Changes:
    """Start the next attempt of a queued run, with a number above `after`.

    Raises IllegalMove where it is not queued any more.

    `now` may be a moment older than the row: the scheduler looks at its clock before it looks at the queue.

    What `gpus: auto` came to holds from now on: a run that began on a GPU must wait for one, and not go on
    with a processor, when the last host that has any is gone for a while.
    """
    return {
        "gpus": gpus,
        "state": _after(run, Event.CLAIM),
        "attempt": max(run.attempt, after) + 1,
        "started_at": max(now, run.submitted_at),
        "reason": None,
        "answered_at": None,
        "epoch": None,
        "step": None,
        "loss": None,
        "images_per_second": None,
        "seconds_left": None,
        "host": None,
        "pid": None,
        "devices": (),
        "python": None,
        "torch": None,
        "from_epoch": None,
        "from_step": None,
        "computes": None,
        "published_state": None,  # an attempt that ends as the last one did is news to tracking all the same
    }


def reported(run: Run, now: float, progress: ProgressFields) -> Changes:
    """Record an answer of the worker of the run's attempt."""
    changes: Changes = {**progress, "answered_at": now}
    durable = _position(progress.get("durable_epoch"), progress.get("durable_step"))
    begun_anew = run.use_best and durable > NOWHERE  # saved by the attempt that began with the best weights
    if durable > _position(run.durable_epoch, run.durable_step) or begun_anew:
        changes |= {"losses": 0, "use_best": False}
    else:  # an attempt that fell back to an earlier checkpoint has not advanced before it passes the old mark
        changes.pop("durable_epoch", None)
        changes.pop("durable_step", None)
    return changes


def ended(
    run: Run,
    event: Event,
    now: float,
    reason: str | None,
    epochs: int | None = None,
    kept: Row | None = None,
) -> Changes:
    """End the run's attempt by `event`, or by what the user intended instead (see `settled`).

    `epochs`: how many are behind a run that has finished, by its worker's last word; `kept`: the newest epoch
    of its metric history that is durable, where that is known.
    """
    losses = run.losses + (event is Event.LOSE)
    event = settled(event, run.intent, losses, run.max_retries)
    state = _after(run, event)
    changes: Changes = {"state": state, "reason": reason, "losses": losses, "seconds_left": None, **NO_INTENT}
    if epochs is not None and epochs != run.durable_epoch:  # the worker was gone before it was asked again
        changes |= {"durable_epoch": epochs, "durable_step": 0}
    changes |= _where_it_goes_on(replace(run, **changes), kept)
    return changes | ({"queued_at": now} if state is State.QUEUED else {"ended_at": now})


def _where_it_goes_on(run: Run, kept: Row | None) -> Changes:
    """Return the position and the metrics of what is durable of a run that has just stopped running.

    What its worker reported beyond that is lost. Where `kept` does not tell the metrics of the newest durable
    epoch, they stay as reported if they are of that epoch, and else are not known.
    """
    changes: Changes = {}
    durable = _position(run.durable_epoch, run.durable_step)
    if kept is not None and (saved := _position(int(kept["epoch"]), 0)) > durable:
        changes, durable = {"durable_epoch": saved[0], "durable_step": 0}, saved
    epochs, step = max(durable, (0, 0))
    if kept is not None and kept["epoch"] == epochs:
        metrics = metrics_of(kept)
        changes |= {"metrics": metrics, "accuracy": metrics.get("test/accuracy")}
    elif run.state is not State.FINISHED and _metrics_are_beyond(run, epochs):
        changes |= {"metrics": {}, "accuracy": None}
    if (
        run.state is not State.FINISHED
        and run.epoch is not None
        and (run.epoch - 1, run.step or 0) > (epochs, step)
    ):
        changes |= {"epoch": epochs + 1, "step": step, "loss": None}
    return changes


def _metrics_are_beyond(run: Run, epochs: int) -> bool:
    """Return whether the metrics that a run has reported may be of an epoch after so many."""
    if run.epoch is None:  # its attempt has reported none
        return False
    in_hand_is_over = run.steps_per_epoch is not None and (run.step or 0) >= run.steps_per_epoch
    return run.epoch - (0 if in_hand_is_over else 1) > epochs


def settled(event: Event, intent: Wish | None, losses: int, max_retries: int) -> Event:
    """Return the event that counts when an attempt ended by `event` while `intent` was pending.

    What the worker finished, or failed at, stands. An attempt that ended in any other manner counts as
    what the user intended, whichever came first: queued again, the run would ignore the user.
    """
    if event in (Event.FINISH, Event.FAIL):
        return event
    if intent is not None:
        return INTENDED[intent]
    if event is Event.LOSE and losses > max_retries:
        return Event.EXHAUST
    return event


def asked(run: Run, intent: Intent, grace_seconds: float, now: float) -> Changes:
    """Interrupt or cancel, as the user asks: at once for a queued run, as an intent for a running one.

    Asked twice, the stronger wish (cancel) and the earlier deadline count.
    """
    state = _after(run, INTENDED[intent])
    if run.state is State.QUEUED:
        return {"state": state, "ended_at": now, "reason": f"{INTENDED[intent]} while it waited"}
    if run.intent is None or run.intent_at is None or run.grace_seconds is None:
        return {"intent": intent, "intent_at": now, "grace_seconds": grace_seconds}
    deadline = min(run.intent_at + run.grace_seconds, now + grace_seconds)
    return {
        "intent": "cancel" if "cancel" in (run.intent, intent) else "interrupt",
        "grace_seconds": max(0.0, deadline - run.intent_at),
    }


def resumed(
    run: Run,
    now: float,
    config: str | None,
    num_epochs: int | None,
    use_best: bool,
    wants: Wants | None,
    longer: bool = False,
    overrides: tuple[str, ...] | None = None,
) -> Changes:
    """Queue an ended run again; a finished one only with more epochs than it had.

    One that stopped early has some left, and needs to be allowed to go on for `longer` without a gain.
    """
    event = Event.RESUME
    if run.is_going:
        raise IllegalMove(f"run {run.id}: it is being deleted, and only `rm` is left")
    if run.state is State.FINISHED:
        _require_more(run, num_epochs, longer)
        event = Event.EXTEND
    changes: Changes = {
        "state": _after(run, event),
        "queued_at": now,
        "ended_at": None,
        "reason": None,
        "losses": 0,
        "use_best": use_best,
        **NO_INTENT,
    }
    if use_best and run.durable_epoch is not None:  # an unfinished epoch begins anew with the best weights
        changes |= {"epoch": run.durable_epoch + 1, "step": 0, "durable_step": 0, "loss": None}
    if config is not None:
        changes["config"] = config
    if num_epochs is not None:
        changes["num_epochs"] = num_epochs
    if wants is not None:
        changes |= wants._asdict()
    if overrides is not None:
        changes["overrides"] = overrides
    return changes


def adopted(run: Run, now: float, reason: str) -> Changes:
    """Stop a run that has not ended, in a copy of its queue; it may go on in the original."""
    state = _after(run, Event.INTERRUPT)
    return {"state": state, "reason": reason, "ended_at": now, "seconds_left": None, **NO_INTENT}


def _require_more(run: Run, num_epochs: int | None, longer: bool) -> None:
    """Raise IllegalMove where a finished run has nothing left to train."""
    last = run.last_epoch
    if (num_epochs or run.num_epochs) <= last:
        raise IllegalMove(
            f"run {run.id}: it is {run.state} and goes on only with more than {last} epochs: "
            f"add --set num_epochs={2 * last}"
        )
    if run.stopped_early and not longer:
        raise IllegalMove(
            f"run {run.id}: it {run.reason}; to go on, allow more epochs without a gain: add {extension(run)}"
        )


def extension(run: Run) -> str:
    """Return the option by which a finished run can be resumed."""
    if run.stopped_early:
        return "--set stop_after_epochs_without_gain=null"
    return f"--set num_epochs={2 * run.num_epochs}"


def placed(run: Run, priority: int) -> Changes:
    """Give a queued run another priority. Raises IllegalMove where it is not queued."""
    if run.state is not State.QUEUED:
        raise IllegalMove(f"run {run.id}: it is {run.state} and has no place in the queue to change")
    return {"priority": priority}


def tagged(run: Run, tags: Mapping[str, str | None]) -> Changes:
    """Give a run the user's tags, without those that are None; no changes where it has them so already."""
    after = {key: value for key, value in {**run.tags, **tags}.items() if value is not None}
    return _annotated(run, {} if after == run.tags else {"tags": after})


def noted(run: Run, text: str | None) -> Changes:
    """Set the user's note about a run, or take it away; no changes where it is so already."""
    return _annotated(run, {} if text == run.user_note else {"user_note": text})


def _annotated(run: Run, changes: Changes) -> Changes:
    """Return the changes, where there are any, with one more annotation to publish."""
    if run.is_going:
        raise IllegalMove(f"run {run.id}: it is being deleted, and only `rm` is left")
    return changes and {**changes, "annotations": run.annotations + 1}


def going(run: Run, now: float) -> Changes:
    """Mark a run whose files are about to be deleted. Raises IllegalMove where it has not ended."""
    require_ended(run)
    return {"intent": "remove", "intent_at": now}


def require_ended(run: Run) -> None:
    """Raise IllegalMove where the run has not ended, and so cannot be removed."""
    if run.state not in ENDED:
        raise IllegalMove(f"run {run.id}: it is {run.state}: cancel it first")


def _after(run: Run, event: Event) -> State:
    try:
        return move(run.state, event)
    except IllegalMove as error:
        raise IllegalMove(f"run {run.id}: {error}") from None


def _position(epoch: int | None, step: int | None) -> tuple[int, int]:
    return NOWHERE if epoch is None else (epoch, step or 0)
