"""A home that has moved: the paths in its own MLflow store follow. Imports no mlflow.

MLflow keeps absolute paths: where an experiment puts new files, and where those of each run and model are.
"""

from __future__ import annotations

import sqlite3
import urllib.parse
import urllib.request
from contextlib import closing
from pathlib import Path

from runner.record import FOLDER, IDENTITY

PATIENCE_SECONDS = 30.0  # for another process that writes to the store
LOCATIONS = {  # columns that hold URIs below the folder of the artifacts, by table
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}
# Experiments of which a run is ours, or which have none yet and the name that ours has.
OURS = """
    SELECT DISTINCT artifact_location FROM experiments AS experiment
    WHERE EXISTS (SELECT 1 FROM runs JOIN tags USING (run_uuid)
                  WHERE runs.experiment_id = experiment.experiment_id AND tags.key = :identity)
       OR name = :name AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.experiment_id = experiment.experiment_id)
"""


def relocate(database: Path, artifacts: str, experiment: str) -> list[str]:
    """Update the paths in the store `database` to where its home is now; return the home's folders before.

    `artifacts`: the URI of the folder for files. In one transaction; nothing happens where the home has not
    moved, or the old path leads to the same folder. Another process must not make the store meanwhile.
    """
    if not database.exists():
        return []
    with closing(sqlite3.connect(database, timeout=PATIENCE_SECONDS, isolation_level=None)) as connection:
        if not _columns(connection, "experiments"):  # a store that is not made to the end
            return []
        connection.execute("BEGIN IMMEDIATE")
        rows = connection.execute(OURS, {"identity": IDENTITY, "name": experiment})
        moved = [uri for (uri,) in rows.fetchall() if uri and _has_moved(uri, artifacts)]
        for before in moved:
            _replace(connection, before, artifacts, database.parent)
        connection.execute("COMMIT")
    return [str(path_of(uri).parent) for uri in moved]


def _has_moved(before: str, now: str) -> bool:
    """Return whether `before` is the folder for files of a home in another place."""
    folder = path_of(now)
    if not before.startswith("file:") or before == now or path_of(before).name != folder.name:
        return False
    home_before = path_of(before).parent
    return not (home_before.exists() and home_before.samefile(folder.parent))


def _replace(connection: sqlite3.Connection, before: str, now: str, home: Path) -> None:
    for table, columns in LOCATIONS.items():
        for column in columns:
            if column in _columns(connection, table):
                _replace_prefix(connection, table, column, before, now)
    condition = f"key = '{FOLDER}' AND "
    _replace_prefix(connection, "tags", "value", str(path_of(before).parent), str(home), condition)


def _replace_prefix(
    connection: sqlite3.Connection, table: str, column: str, before: str, now: str, condition: str = ""
) -> None:
    """Replace `before` by `now` at the beginning of the paths in `column` that are it or lie below it."""
    below = f"{condition}({column} = :before OR substr({column}, 1, length(:before) + 1) = :before || '/')"
    update = f"UPDATE {table} SET {column} = :now || substr({column}, length(:before) + 1) WHERE {below}"
    connection.execute(update, {"before": before, "now": now})


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}


def path_of(uri: str) -> Path:
    """Return the path that a `file:` URI names."""
    return Path(urllib.request.url2pathname(urllib.parse.urlsplit(uri).path))
