"""`ui`: MLflow and TensorBoard on this home, in a browser."""

from __future__ import annotations

from typing import Annotated

import typer

from runner import exits
from runner.output import emit, hint

PORT = 5000


def ui(
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Of MLflow; TensorBoard takes the next.")
    ] = PORT,
) -> None:
    """Serve the MLflow UI, and TensorBoard beside it, on this machine only, until Ctrl-C.

    \b
    Example:
      python -m runner ui --port 5001
    """
    from runner.commands.access import open_queue
    from runner.ui import serve

    with open_queue() as (home, _):
        pass  # so that a home which does not exist is one line, and no server is started for it
    hint("starting MLflow and TensorBoard: this takes some seconds")
    try:
        with serve(home, port) as services:
            for page in services.pages:
                emit(f"{page.name:<12} {page.url}")
            hint("Ctrl-C ends them; the runs go on")
            services.wait()
    except KeyboardInterrupt:
        raise typer.Exit(exits.OK) from None
