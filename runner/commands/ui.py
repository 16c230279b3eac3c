"""`ui`: MLflow and TensorBoard on this home, in a browser."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from runner import exits
from runner.output import PROGRAM, emit, hint

if TYPE_CHECKING:
    from runner.commands.access import Access
    from runner.paths import Home
    from runner.rows import Run

PORT = 5000
COPY_SECONDS = 30.0  # between two looks at the object store for what is new on TensorBoard


def ui(
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Of MLflow; TensorBoard takes the next.")
    ] = PORT,
) -> None:
    """Serve the MLflow UI, and TensorBoard beside it, on this machine only, until Ctrl-C.

    Where the runs are published to an MLflow server, its own address is given instead; TensorBoard needs
    the runs' folders.

    \b
    Example:
      python -m runner ui --port 5001
    """
    from runner.commands.access import open_queue, require_folders
    from runner.tracking import target
    from runner.ui import serve

    with open_queue(only_looks=True) as access:  # where there is no home no server is started, either
        home, environ = access.home, environment(access)
        runs = access.store.runs() if home.remote else []
    if not target(home, environ).served:
        require_folders(home, f"run `{PROGRAM} ui`")
    if home.remote:
        _copy_boards(home, runs)
    hint("asking and starting the servers: this takes some seconds")
    try:
        with serve(home, port, environ) as services:
            for page in services.pages:
                emit(f"{page.name:<12} {page.url}")
            if not services.children:
                hint(f"no TensorBoard: {home.runs} with the runs' folders is not to be seen from this host")
                return
            hint("Ctrl-C ends them; the runs go on")
            services.wait()
    except KeyboardInterrupt:
        raise typer.Exit(exits.OK) from None


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
    """This process's variables, with the tracking store that the cluster uses where they name none."""
    from runner.commands.show import published_to

    if access.home.shared and not os.environ.get("MLFLOW_TRACKING_URI") and (uri := published_to(access)):
        return {**os.environ, "MLFLOW_TRACKING_URI": uri}
    return os.environ
