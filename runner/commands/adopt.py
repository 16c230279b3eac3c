"""`adopt`: a copy of a home becomes a home of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.commands.options import Json
from runner.output import PROGRAM, CommandError, emit_json, hint, one_line
from runner.wording import runs_named

if TYPE_CHECKING:
    from runner.commands.access import Access


def adopt(json: Json = False) -> None:
    """Make a copy of a home one of its own, with a scheduler of its own. Nothing of the original is touched.

    Runs that had not ended when the copy was made are INTERRUPTED here,
    for they may go on there; `resume` goes on with them here.

    \b
    Example:
      cp -r runs trial && RUNNER_HOME=trial python -m runner adopt
    """
    from runner.commands.access import open_queue

    with open_queue(adopts=True) as access:
        original = access.store.original()
        stopped = [] if original is None else _adopted(access, original)
        if original is None:
            hint(f"{access.home.root} is a home of its own already: nothing to do")
        else:
            hint(f"{access.home.root} is a home of its own now; {original} is left as it is")
        if stopped:
            hint(f"{runs_named(stopped)} INTERRUPTED here: `{PROGRAM} resume` goes on with each")
        if json:
            emit_json({"queue": access.store.queue_id, "interrupted": stopped})


def _adopted(access: Access, original: str) -> list[int]:
    """Adopt the copy; return the numbers of the runs that had not ended. Raises CommandError."""
    from runner import storage
    from runner.paths import recorded
    from runner.redaction import redacted
    from runner.tracking import target

    home, store = access
    noted = store.recorded_home()
    before = recorded(noted) if noted else None
    if before is not None and (before.storage or before.root) == (home.storage or home.root):
        raise CommandError(
            f"the runs' files in {home.storage or home.root} are those of {original}: copy them, too, and "
            "name the copy in RUNNER_HOME or RUNNER_STORAGE"
        )
    # MLflow's store in the home was copied with it; what a server has stays the original's.
    keeps = before is None or store.recorded_tracking() in (None, redacted(target(before, {}).uri))
    before_id = store.queue_id
    stopped = store.adopt(
        store.now(), home.record, f"it may go on in {original}, of which this is a copy", keeps
    )
    try:
        storage.of(home).hand_over(before_id, store.queue_id)
    except OSError as error:
        raise CommandError(one_line(error)) from error
    return stopped
