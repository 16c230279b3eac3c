"""`ui`: MLflow and TensorBoard on this home, in a browser."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from runner import exits
from runner.output import PROGRAM, emit_exactly, hint

if TYPE_CHECKING:
    from runner.commands.access import Access
    from runner.paths import Home
    from runner.rows import Run
    from runner.ui_record import Page

PORT = 5000
COPY_SECONDS = 30.0  # between two looks at the object store for what is new on TensorBoard


def ui(
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Of both pages; where it is taken, the next free one.")
    ] = PORT,
) -> None:
    """Serve the MLflow UI and TensorBoard on this machine, for you alone, until Ctrl-C.

    Prints a link for each. The browser keeps a cookie for what you open from there, and nobody else on the
    machine gets in without the link. Where this home's pages are served already, says by which process and
    where. Where the runs are published to an MLflow server, its own address is given instead; TensorBoard
    needs the runs' folders.

    \b
    Example:
      python -m runner ui --port 5001
    """
    from runner.commands.access import open_queue, require_folders
    from runner.tracking import target
    from runner.ui import AlreadyServed, serve

    with open_queue(only_looks=True) as access:  # where there is no home no server is started, either
        home, environ = access.home, environment(access)
        runs = access.store.runs() if home.remote else []
        moves = not is_served_elsewhere(access)
    if not target(home, environ).served:
        require_folders(home, f"run `{PROGRAM} ui`")
    if home.remote:
        _copy_boards(home, runs)
    hint("starting the servers, unless they run: this takes some seconds")
    try:
        with serve(home, port, environ, partial(follow_home, home, environ) if moves else None) as services:
            list_pages(services.pages)
            if not services.children:
                hint(f"no TensorBoard: {home.runs} with the runs' folders is not to be seen from this host")
                return
            hint("whoever has a link may read and delete your runs, until this command ends")
            hint("Ctrl-C ends the pages; the runs go on")
            services.wait()
    except AlreadyServed as already:
        hint(f"process {already.served.pid} serves these pages already; Ctrl-C there ends them")
        list_pages(already.served.pages)
    except KeyboardInterrupt:
        raise typer.Exit(exits.OK) from None


def list_pages(pages: Iterable[Page]) -> None:
    """Print the links, with the token in them."""
    for page in pages:
        emit_exactly(f"{page.name:<12} {page.url}")


def is_served_elsewhere(access: Access) -> bool:
    """Return whether a scheduler keeps the runs under another path, perhaps to the same folder."""
    from runner.paths import recorded
    from runner.service import is_alive

    text = access.store.recorded_home()
    has_other_path = text is not None and recorded(text).root != access.home.root
    return has_other_path and is_alive(access.store, access.store.now())


def follow_home(home: Home, environ: Mapping[str, str]) -> None:
    """Update the paths in MLflow's store where the home has moved, and print that."""
    from runner import tracking

    store = tracking.target(home, environ)
    with tracking.locked(store.lock):
        for before in tracking.follow_home(store):
            hint(f"MLflow's files are here now and no longer in {before}")


def _copy_boards(home: Home, runs: Sequence[Run]) -> None:
    """Bring what TensorBoard shows of each run here, and what is new from now on in a thread."""
    from runner import storage

    kept = storage.of(home)

    def copy() -> None:
        for run in runs:
            if run.attempt:
                kept.read(run, "tensorboard")

    def go_on() -> None:
        while True:
            time.sleep(COPY_SECONDS)
            with suppress(OSError):  # a storage that is away for a moment: the next look finds it again
                copy()

    hint(f"copying TensorBoard's logs from {home.storage}")
    copy()
    threading.Thread(target=go_on, daemon=True).start()


def environment(access: Access) -> Mapping[str, str]:
    """Return this process's variables, with the cluster's tracking store where they name none."""
    from runner.commands.show import published_to

    if access.home.shared and not os.environ.get("MLFLOW_TRACKING_URI") and (uri := published_to(access)):
        return {**os.environ, "MLFLOW_TRACKING_URI": uri}
    return os.environ
