"""The tracking store: the only file that imports mlflow, and only once something is to be published.

Nothing here decides what is published. Every write may be repeated: after a crash between MLflow's write
and the queue's, the same call leaves MLflow as it is.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from runner import record
from runner.paths import Home
from runner.record import Point

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

POINTS_A_BATCH = 1000  # MLflow's limits for one request
TAGS_A_BATCH = 100
MODEL_EPOCH = "runner.epoch"  # tag of a model: the epoch after which its weights were taken
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # its UI shows runs, not chats

SETTINGS = {
    # A server that is away is tried again at the next tick; MLflow itself would wait for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds; a model that is uploaded takes some
    # No calls home, and nothing on the worker's or the user's terminal.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
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
    """Where runs are published to."""

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
    uri = environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{database}"
    served = uri.startswith(("http://", "https://"))
    return Target(
        uri=uri,
        experiment=environ.get("MLFLOW_EXPERIMENT_NAME") or "capsnet",
        artifacts=None if served else home.artifacts.as_uri(),
        lock=database.with_name(database.name + ".lock") if uri == f"sqlite:///{database}" else None,
        served=served,
    )


def shown(uri: str) -> str:
    """A URI, or text with some, as it may be printed and stored: without the names and passwords in them."""
    return re.sub(r"(?<=://)[^/?#\s]*@", "", uri)


@contextmanager
def locked(lock: Path | None) -> Iterator[None]:
    """Held by whoever may set up the store: MLflow's migrations, run twice at once, break it."""
    if lock is None:
        yield
        return
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """To import MLflow in: with our settings, and without its warnings, on which no user can act."""
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass
class Record:
    """What MLflow holds of a run, as far as this process needs to know."""

    id: str
    experiment_id: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    epoch: int = 0  # the last one whose metrics it has
    sampled: set[int] = field(default_factory=set)  # times of the system samples that it has, in ms


class Tracker:
    """MLflow's client, of one store and one experiment. Its errors are MLflow's own."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._client: MlflowClient | None = None
        self._experiment_id: str | None = None

    def check(self) -> None:
        """Raises unless the store answers and the experiment, created where it is missing, is in use."""
        if self._client is None:
            with locked(self.target.lock):
                self._client = _connect(self.target.uri)
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
        return found.experiment_id

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
            raise TrackingError(f"{shown(self.target.uri)}: not connected")
        return self._client

    def open(
        self, known_id: str | None, name: str, started_at: float, tags: Mapping[str, str | None]
    ) -> Record:
        """The run of this id, else the one whose identity `tags` tell, else a new one with these tags."""
        run = self._find(known_id, tags[record.IDENTITY])
        if run is None:
            known = {key: value for key, value in tags.items() if value is not None}
            run = self.client.create_run(str(self._experiment_id), round(started_at * 1000), known, name)
            return Record(run.info.run_id, run.info.experiment_id, run.info.status, params={}, tags=known)
        if run.info.lifecycle_stage != "active":
            raise TrackingError(f"its MLflow run {run.info.run_id} was deleted: restore it in MLflow's UI")
        history = self.client.get_metric_history
        return Record(
            id=run.info.run_id,
            experiment_id=run.info.experiment_id,
            status=run.info.status,
            params=dict(run.data.params),
            tags=dict(run.data.tags),
            epoch=max((point.step for point in history(run.info.run_id, record.EPOCH)), default=0),
            sampled={point.timestamp for point in history(run.info.run_id, record.SAMPLE)},
        )

    def _find(self, known_id: str | None, identity: str | None) -> Any:
        from mlflow.entities import ViewType
        from mlflow.exceptions import MlflowException

        if known_id is not None:
            try:
                return self.client.get_run(known_id)
            except MlflowException as error:  # the store was emptied, or is another one
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        query = f"tags.`{record.IDENTITY}` = '{identity}'"
        found = self.client.search_runs(
            [str(self._experiment_id)], query, ViewType.ALL, order_by=["attributes.start_time ASC"]
        )
        return found[0] if found else None

    def add_points(self, run: Record, groups: Iterable[Sequence[Point]]) -> None:
        """Writes groups of points, in order; a group is written whole or not at all."""
        for batch in _batches(filter(None, groups), POINTS_A_BATCH):
            points = [point for group in batch for point in group]
            self.client.log_batch(run.id, metrics=[_metric(point) for point in points])
            run.epoch = max([run.epoch, *(point.step for point in points if point.key == record.EPOCH)])

    def add_params(self, run: Record, params: Mapping[str, str]) -> None:
        """Writes params once; those of a run never change."""
        from mlflow.entities import Param

        self.client.log_batch(run.id, params=[Param(key, value) for key, value in params.items()])
        run.params |= params

    def set_tags(self, run: Record, tags: Mapping[str, str | None]) -> None:
        """Writes the tags that differ from what MLflow has; None takes a tag away."""
        from mlflow.entities import RunTag

        news = [(key, value) for key, value in tags.items() if run.tags.get(key) != value]
        kept = [(key, value) for key, value in news if value is not None]
        for start in range(0, len(kept), TAGS_A_BATCH):
            batch = kept[start : start + TAGS_A_BATCH]
            self.client.log_batch(run.id, tags=[RunTag(key, value) for key, value in batch])
            run.tags |= dict(batch)
        for key, _ in (pair for pair in news if pair[1] is None):
            self.client.delete_tag(run.id, key)
            del run.tags[key]

    def set_status(self, run: Record, status: str, ended_at: float | None) -> None:
        """Writes the status; MLflow keeps an earlier end's time while a resumed run goes on."""
        if status != run.status or ended_at is not None:
            if ended_at is None:
                self.client.update_run(run.id, status)
            else:
                self.client.set_terminated(run.id, status, round(ended_at * 1000))
            run.status = status

    def add_file(self, run: Record, file: Path, folder: str | None = None) -> None:
        """Copies a file to the run's artifacts, over an earlier one of the same name."""
        self.client.log_artifact(run.id, str(file), folder)

    def add_model(
        self, run: Record, name: str, epoch: int, points: Sequence[Point], save: Callable[[Path, Any], None]
    ) -> None:
        """Adds what `save(folder, mlflow_model)` makes as the run's model after `epoch`, unless it is there.

        `points` are that epoch's metrics, which MLflow then shows beside the model too.
        """
        from mlflow.models import Model

        model = self._model(run, name, epoch)
        if model.status == "READY":
            return
        with tempfile.TemporaryDirectory(prefix="runner-model-") as folder:
            identity = Model(artifact_path=model.artifact_location, run_id=run.id, model_id=model.model_id)
            save(Path(folder) / "model", identity)
            self.client.log_model_artifacts(model.model_id, str(Path(folder) / "model"))
        # The run has these points already, where MLflow drops the second one.
        self.client.log_batch(run.id, metrics=[_metric(point, model.model_id) for point in points])
        self.client.finalize_logged_model(model.model_id, "READY")

    def _model(self, run: Record, name: str, epoch: int) -> LoggedModel:
        """The run's model after this epoch, perhaps left unfinished by an earlier process."""
        from mlflow.entities import LoggedModelOutput

        models = self.client.search_logged_models([run.experiment_id], f"source_run_id = '{run.id}'")
        model = next((model for model in models if model.tags.get(MODEL_EPOCH) == str(epoch)), None)
        if model is None:
            model = self.client.create_logged_model(
                run.experiment_id,
                name=re.sub("[/:.%\"']", "_", name),
                source_run_id=run.id,
                tags={MODEL_EPOCH: str(epoch)},
                params=run.params,
                model_type="classifier",
            )
        outputs = self.client.get_run(run.id).outputs
        if outputs is None or model.model_id not in {output.model_id for output in outputs.model_outputs}:
            self.client.log_outputs(run.id, [LoggedModelOutput(model.model_id, step=epoch)])
        return model


def _connect(uri: str) -> MlflowClient:
    """A client; in a new SQLite file this makes MLflow's tables, which takes seconds."""
    with quiet():
        from mlflow import MlflowClient

        return MlflowClient(uri)


def _metric(point: Point, model_id: str | None = None) -> Any:
    from mlflow.entities import Metric

    return Metric(point.key, point.value, point.milliseconds, point.step, model_id=model_id)


def _batches(groups: Iterable[Sequence[Item]], limit: int) -> Iterator[list[Sequence[Item]]]:
    """Lists of whole groups with at most `limit` items in all."""
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
    """One line: the root of a failed connection, else what MLflow says, without passwords, shortened."""
    broken = [cause for cause in _causes(error) if isinstance(cause, OSError)]
    lines = shown(str(broken[-1] if broken else error)).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
