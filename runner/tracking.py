"""The tracking store: the only file that imports mlflow, and only once something is to be published.

Nothing here decides what is published. Every write may be repeated: after a crash between MLflow's write
and the queue's, the same call leaves MLflow as it is.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from capsnet import locks
from capsnet.private import private_folder
from runner import record, settings
from runner.held import own_folder
from runner.loopback import bypass_proxies
from runner.paths import Home
from runner.private import VARIABLE, runner_folder
from runner.record import Point, Sample
from runner.redaction import redacted
from runner.relocation import path_of, relocate
from runner.run_files import file_mode

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

POINTS_A_BATCH = 1000  # MLflow's limits for one request
TAGS_A_BATCH = 100
OLDEST_SERVER = 3  # major version; the ones before know no logged models
MODEL_EPOCH = "runner.epoch"  # tag of a model: the epoch after which its weights were taken
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # its UI shows runs, not chats

SETTINGS = {
    # A server that is away is tried again at a later round; MLflow itself would wait for minutes, and
    # send again what a server that hangs has received and carries out later.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds; a model that is uploaded takes some
    # No calls home, and nothing on the worker's or the user's terminal.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # with the password in it
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    # The requirements of a model are given: asking pip whether they agree would need the network.
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",
}

Item = TypeVar("Item")


class TrackingError(Exception):
    """The store cannot take a run as it is; one line that says what to do."""


@dataclass(frozen=True)
class Target:
    """Store that runs are published to."""

    uri: str
    experiment: str
    artifacts: str | None  # URI of the folder for files; None: the server of `uri` decides
    lock: Path | None  # held while the store, when it is one of our own, is set up
    served: bool  # by a tracking server, which has a user interface of its own


def target(home: Home, environ: Mapping[str, str] = os.environ) -> Target:
    """MLFLOW_TRACKING_URI, else a SQLite file in the home.

    All runs of all YAML files go to one experiment ("capsnet", or MLFLOW_EXPERIMENT_NAME): MLflow sorts,
    filters and charts runs side by side only within one, and to compare configurations is what they are
    made for. Those of one file are found by their name.
    """
    database = home.mlflow_database
    uri = settings.tracking_uri(environ) or f"sqlite:///{database}"
    served = uri.startswith(("http://", "https://"))
    return Target(
        uri=uri,
        experiment=environ.get("MLFLOW_EXPERIMENT_NAME") or "capsnet",
        artifacts=None if served else home.artifacts.as_uri(),
        lock=database.with_name(database.name + ".lock") if uri == f"sqlite:///{database}" else None,
        served=served,
    )


def follow_home(target: Target) -> list[str]:
    """Update the paths in a store of our own to where its home is now; return the home's folders before.

    The caller holds the target's lock.
    """
    if target.lock is None or target.artifacts is None:
        return []
    return relocate(target.lock.with_suffix(""), target.artifacts, target.experiment)


@contextmanager
def locked(lock: Path | None) -> Iterator[None]:
    """Hold the lock for setting up the store: MLflow's migrations, run twice at once, break the store."""
    if lock is None:
        yield
        return
    lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locks.locked(lock, "RUNNER_HOME"):
        lock.with_suffix("").touch(mode=file_mode(lock.parent))  # MLflow leaves that to the umask
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Context for the import of MLflow: with our settings, and without warnings, on which no user can act."""
    bypass_proxies()
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass
class Record:
    """MLflow's data of a run, as far as this process needs them."""

    id: str
    experiment_id: str
    status: str
    started_ms: int  # unix time in ms, of its making: MLflow never changes it
    params: dict[str, str]
    tags: dict[str, str]
    epoch: int = 0  # the last one whose metrics it has
    sampled: set[Sample] = field(default_factory=set)  # the system samples that it has


class Tracker:
    """MLflow's client, of one store and one experiment. Its errors are MLflow's own."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._client: MlflowClient | None = None
        self._experiment_id: str | None = None

    def check(self) -> None:
        """Raise unless the store answers and the experiment, created where it is missing, is in use."""
        if self._client is None:
            with locked(self.target.lock):
                for before in follow_home(self.target):
                    print(f"{self.target.uri}: its files are here now and no longer in {before}", flush=True)
                self._client = _connect(self.target)
                self._experiment_id = self._experiment()
        else:
            self._experiment_id = self._experiment()

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        name = self.target.experiment
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                made = self.client.create_experiment(name, self.target.artifacts, EXPERIMENT_TAGS)
            except MlflowException as error:  # another publisher was quicker
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                return self._experiment()
            self._clear_default()
            return made
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"the MLflow experiment {name!r} was deleted: restore it, or set MLFLOW_EXPERIMENT_NAME"
            )
        self._require_folder(found.artifact_location)
        return found.experiment_id

    def _require_folder(self, location: str) -> None:
        """Raise TrackingError where the experiment's files belong into a home that is not there any more.

        MLflow would make the folder anew. A store of our own follows its home instead.
        """
        folder = path_of(location) if location.startswith("file:") else None
        if self.target.served or location == self.target.artifacts or folder is None:
            return
        if not folder.parent.is_dir():
            raise TrackingError(
                f"the MLflow experiment {self.target.experiment!r} keeps its files in {folder}, which is not "
                "there: move them back, or set MLFLOW_EXPERIMENT_NAME to begin another experiment"
            )

    def _clear_default(self) -> None:
        """In a store of our own, hide MLflow's empty experiment "Default"."""
        default = self.client.get_experiment("0") if self.target.lock else None
        if (
            default
            and default.lifecycle_stage == "active"
            and not self.client.search_runs(["0"], max_results=1)
        ):
            self.client.delete_experiment("0")

    @property
    def client(self) -> MlflowClient:
        if self._client is None:
            raise TrackingError(f"{redacted(self.target.uri)}: not connected")
        return self._client

    def open(
        self, known_id: str | None, name: str, started_at: float, tags: Mapping[str, str | None]
    ) -> Record:
        """The run of this id, else that of the number and identity in `tags`, else a new one with them."""
        run = self._find(known_id, tags)
        if run is None:
            known = {key: value for key, value in tags.items() if value is not None}
            run = self.client.create_run(str(self._experiment_id), round(started_at * 1000), known, name)
            info = run.info
            return Record(
                info.run_id, info.experiment_id, info.status, info.start_time, params={}, tags=known
            )
        if not _is_active(run):
            raise TrackingError(f"its MLflow run {run.info.run_id} was deleted: restore it in MLflow's UI")
        found, history = _record(run), self.client.get_metric_history
        found.epoch = max((point.step for point in history(found.id, record.EPOCH)), default=0)
        found.sampled = {(point.timestamp, point.value) for point in history(found.id, record.SAMPLE)}
        return found

    def find(self, known_id: str) -> Record | None:
        """Return the MLflow run of this id, without its metrics; None where there is none."""
        run = self._run(known_id)
        return None if run is None else _record(run)

    def _find(self, known_id: str | None, tags: Mapping[str, str | None]) -> Any:
        """The run of this id, else the fullest of this number and identity; empty doubles of it are deleted.

        A server that hung may carry out the making of a run after its client has given up and made another.
        """
        identity = tags.get(record.RUN_IDENTITY)
        known = self._run(known_id)
        if known is not None and known.data.tags.get(record.RUN_IDENTITY, identity) != identity:
            known = None  # another run's, of a queue that was put back from a copy
        experiment_id = known.info.experiment_id if known else str(self._experiment_id)
        query = f"tags.`{record.IDENTITY}` = '{tags[record.IDENTITY]}'"
        numbered = self.client.search_runs([experiment_id], query, _any_stage())
        # By the number alone it was found before runs had an identity; the same number may be another run's.
        found = [run for run in numbered if run.data.tags.get(record.RUN_IDENTITY) == identity]
        # In an order that another process, which looks at the same moment, finds too.
        found.sort(key=lambda run: (not _is_active(run), _is_empty(run), run.info.run_id))
        if known is None and not found:
            return None
        chosen = known or found[0]
        for run in found:
            if _is_active(run) and _is_empty(run) and run.info.run_id != chosen.info.run_id:
                self.client.delete_run(run.info.run_id)
        return chosen

    def _run(self, run_id: str | None) -> Any:
        """Return the run of this id, None where there is none: the store was emptied, or is another one."""
        from mlflow.exceptions import MlflowException

        if run_id is None:
            return None
        try:
            return self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def add_points(self, run: Record, groups: Iterable[Sequence[Point]]) -> None:
        """Write groups of points, in order; a group is written whole or not at all."""
        for batch in _batches(filter(None, groups), POINTS_A_BATCH):
            points = [point for group in batch for point in group]
            self.client.log_batch(run.id, metrics=[_metric(point) for point in points])
            run.epoch = max([run.epoch, *(point.step for point in points if point.key == record.EPOCH)])

    def add_params(self, run: Record, params: Mapping[str, str]) -> None:
        """Write params once; those of a run never change."""
        from mlflow.entities import Param

        self.client.log_batch(run.id, params=[Param(key, value) for key, value in params.items()])
        run.params |= params

    def set_tags(self, run: Record, tags: Mapping[str, str | None]) -> None:
        """Write the tags that differ from what MLflow has; None takes a tag away.

        Those that go, go first: a tag that says which others there are never leaves one out that is there.
        """
        from mlflow.entities import RunTag

        news = [(key, value) for key, value in tags.items() if run.tags.get(key) != value]
        for key, _ in (pair for pair in news if pair[1] is None):
            self.client.delete_tag(run.id, key)
            del run.tags[key]
        kept = [(key, value) for key, value in news if value is not None]
        for start in range(0, len(kept), TAGS_A_BATCH):
            batch = kept[start : start + TAGS_A_BATCH]
            self.client.log_batch(run.id, tags=[RunTag(key, value) for key, value in batch])
            run.tags |= dict(batch)

    def set_status(self, run: Record, status: str, seconds: float | None) -> None:
        """Write the status and, of a run that has ended, for how many seconds it went on in all.

        MLflow shows the time from its start to its end, so the end is that long after the start. It keeps an
        earlier end while a resumed run goes on.
        """
        if status != run.status or seconds is not None:
            if seconds is None:
                self.client.update_run(run.id, status)
            else:
                self.client.set_terminated(run.id, status, run.started_ms + round(seconds * 1000))
            run.status = status

    def add_file(self, run: Record, file: Path, folder: str | None = None) -> None:
        """Copy a file to the run's artifacts, over an earlier one of the same name."""
        self.client.log_artifact(run.id, str(file), folder)

    def add_model(
        self, run: Record, name: str, epoch: int, points: Sequence[Point], save: Callable[[Path, Any], None]
    ) -> None:
        """Add the model that `save(folder, mlflow_model)` makes to the run, for `epoch`, unless it is there.

        `points` are that epoch's metrics, which MLflow then shows beside the model too.
        """
        from mlflow.models import Model

        model = self._model(run, name, epoch)
        if model.status != "READY":
            with own_folder(models_folder()) as folder:
                identity = Model(
                    artifact_path=model.artifact_location, run_id=run.id, model_id=model.model_id
                )
                save(folder / "model", identity)
                self.client.log_model_artifacts(model.model_id, str(folder / "model"))
            # The run has these points already, where MLflow drops the second one.
            self.client.log_batch(run.id, metrics=[_metric(point, model.model_id) for point in points])
            self.client.finalize_logged_model(model.model_id, "READY")
        self._delete_doubles(run, epoch, model)

    def _model(self, run: Record, name: str, epoch: int) -> LoggedModel:
        """Return the run's model after this epoch, perhaps left unfinished by an earlier process."""
        from mlflow.entities import LoggedModelOutput

        if not self._models(run, epoch):
            self.client.create_logged_model(
                run.experiment_id,
                name=re.sub("[/:.%\"']", "_", name),
                source_run_id=run.id,
                tags={MODEL_EPOCH: str(epoch)},
                params=run.params,
                model_type="classifier",
            )
        model = self._models(run, epoch)[0]  # looked for again: another process may have been quicker
        outputs = self.client.get_run(run.id).outputs
        if outputs is None or model.model_id not in {output.model_id for output in outputs.model_outputs}:
            self.client.log_outputs(run.id, [LoggedModelOutput(model.model_id, step=epoch)])
        return model

    def _models(self, run: Record, epoch: int) -> list[LoggedModel]:
        """The run's models after this epoch; first the one that counts: a finished one, else the oldest."""
        models = self.client.search_logged_models([run.experiment_id], f"source_run_id = '{run.id}'")
        found = [model for model in models if model.tags.get(MODEL_EPOCH) == str(epoch)]
        return sorted(found, key=lambda model: (model.status != "READY", *_age(model)))

    def _delete_doubles(self, run: Record, epoch: int, model: LoggedModel) -> None:
        """Delete what a server that hung has made of the model after its client had given up.

        Only younger ones: who looks at the same moment and holds another one for the model keeps the older.
        """
        for other in self._models(run, epoch):
            if _age(other) > _age(model):
                self.client.delete_logged_model(other.model_id)


def models_folder() -> Path:
    """Return the folder of this user's on this machine in which models are made before they are uploaded."""
    return private_folder(runner_folder() / "models", f"set {VARIABLE} to a folder of your own")


def _age(model: LoggedModel) -> tuple[int, str]:
    """Return a key that sorts models by when they were made."""
    return model.creation_timestamp, model.model_id


def _record(run: Any) -> Record:
    """Return an MLflow run without its metrics. Raises TrackingError for a deleted one."""
    if not _is_active(run):
        raise TrackingError(f"its MLflow run {run.info.run_id} was deleted: restore it in MLflow's UI")
    return Record(
        id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        status=run.info.status,
        started_ms=run.info.start_time,
        params=dict(run.data.params),
        tags=dict(run.data.tags),
    )


def _is_active(run: Any) -> bool:
    """Return whether an MLflow run is not deleted."""
    return run.info.lifecycle_stage == "active"


def _is_empty(run: Any) -> bool:
    """Return whether nothing but the making of an MLflow run was ever written to it."""
    return not run.data.params and not run.data.metrics


def _any_stage() -> int:
    """Return which runs to search: those that were deleted too."""
    from mlflow.entities import ViewType

    return ViewType.ALL


def _connect(target: Target) -> MlflowClient:
    """Return a client; in a new SQLite file this makes MLflow's tables, which takes seconds.

    Raises TrackingError for a server that is too old.
    """
    with quiet():
        from mlflow import MlflowClient

        if target.served:
            _require_server(target.uri)
        return MlflowClient(target.uri)


def _require_server(uri: str) -> None:
    """Raise unless the server answers and is, as far as it says, one that takes all that is published."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request
    from mlflow.version import VERSION

    answer: Any = http_request(get_default_host_creds(uri), "/version", "GET")
    # Behind some gateways there is no such page, but one for people.
    said = re.fullmatch(r"(\d+)\.\d[\w.+-]*", answer.text.strip()) if answer.status_code == 200 else None
    if said and int(said[1]) < OLDEST_SERVER:
        raise TrackingError(
            f"this server is MLflow {said[0]}, which takes no models from the MLflow {VERSION} of this host: "
            f"upgrade the server to {OLDEST_SERVER} or newer, or name another one in MLFLOW_TRACKING_URI"
        )


def _metric(point: Point, model_id: str | None = None) -> Any:
    from mlflow.entities import Metric

    return Metric(point.key, point.value, point.milliseconds, point.step, model_id=model_id)


def _batches(groups: Iterable[Sequence[Item]], limit: int) -> Iterator[list[Sequence[Item]]]:
    """Yield lists of whole groups with at most `limit` items in all."""
    batch: list[Sequence[Item]] = []
    size = 0
    for group in groups:
        if batch and size + len(group) > limit:
            yield batch
            batch, size = [], 0
        batch.append(group)
        size += len(group)
    if batch:
        yield batch


def explain(error: BaseException) -> str:
    """Return the root of a failed connection, else MLflow's message, in one short line without passwords."""
    broken = [cause for cause in _causes(error) if isinstance(cause, OSError)]
    lines = redacted(str(broken[-1] if broken else error)).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    if any(type(cause).__name__ == "ProxyError" for cause in _causes(error)):  # of requests, and of urllib3
        reason = f"the proxy that HTTP_PROXY or HTTPS_PROXY names (NO_PROXY leaves hosts out): {reason}"
    return reason[:300]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        # urllib3 hands on why a connection was aborted as an argument only.
        inner = next((each for each in error.args if isinstance(each, BaseException)), None)
        error = error.__cause__ or error.__context__ or inner
