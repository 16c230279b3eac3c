"""Variables that the scheduler, the publisher and workers are given as they are where `up` was called.

They start wherever Ray does, which knows nothing of them.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

from runner.paths import Home

STORAGE = "RUNNER_STORAGE"
TRACKING = ("MLFLOW_", "DATABRICKS_")
STORES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
TRACKING_CERTIFICATES = ("MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_CLIENT_CERT_PATH")
SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///(?:file:)?)([^?:][^?]*)(.*)")
NO_PATHS = ("databricks", "databricks-uc", "uc")  # names of stores that are no URIs
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")
OBJECT_STORE = ("AWS_", "AZURE_", "GOOGLE_", "FSSPEC_", "RUNNER_SCRATCH")
DATABASE = ("PG",)  # such as PGPASSFILE and PGSSLROOTCERT, which libpq reads
# By which way the network is reached: downloads of data sets, the tracking server, the object store.
PROXIES = tuple(
    name
    for key in ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
    for name in (key, key.upper())
)
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
NETWORK = PROXIES + CERTIFICATES


def given(home: Home, environ: Mapping[str, str], local: bool) -> dict[str, str]:
    """Return the variables to hand on: for the tracking server and, where runs lie in one, the object store.

    `local`: to processes of the local Ray, which itself has none of these variables; the machines of a
    cluster have their own way to the network and to the database.
    """
    prefixes = TRACKING + (OBJECT_STORE if home.remote else ())
    prefixes += DATABASE if local and home.shared else ()
    names = NETWORK if local else ()
    found = {key: value for key, value in environ.items() if key.startswith(prefixes) or key in names}
    return found | mlflow_paths(environ) | ({STORAGE: home.storage} if home.storage else {})


def tracking_uri(environ: Mapping[str, str]) -> str | None:
    """The tracking store that MLFLOW_TRACKING_URI names, the same for processes of other directories."""
    return mlflow_paths(environ).get("MLFLOW_TRACKING_URI")


def mlflow_paths(environ: Mapping[str, str]) -> dict[str, str]:
    """MLflow's variables that may name a path, with an absolute one."""
    uris = {key: _absolute_uri(environ[key]) for key in STORES if environ.get(key)}
    files = {key: _absolute_path(environ[key]) for key in TRACKING_CERTIFICATES if environ.get(key)}
    return uris | files


def _absolute_uri(uri: str) -> str:
    """Return the URI of a store, as MLflow takes it: of a SQLite file or a folder with its absolute path."""
    if database := SQLITE.fullmatch(uri):
        return f"{database[1]}{_absolute_path(database[2])}{database[3]}"
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme == "file" and not parts.netloc:
        return Path(_absolute_path(urllib.parse.unquote(parts.path))).as_uri()
    return uri if parts.scheme or uri in NO_PATHS else _absolute_path(uri)


def _absolute_path(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def of_worker(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a worker needs."""
    return {key: value for key, value in settings.items() if key.startswith(OBJECT_STORE) or key in NETWORK}


def adopt(settings: Mapping[str, str]) -> None:
    """Set these variables in this process, and remove its host's own that could contradict one of them."""
    # Hosts of a cloud may have credentials of their own, and no others are given them.
    alone = TRACKING + (CREDENTIALS if any(key.startswith(CREDENTIALS) for key in settings) else ())
    for key in [key for key in os.environ if key.startswith(alone)]:
        del os.environ[key]
    os.environ.update(settings)
