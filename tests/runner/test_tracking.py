"""MLflow's store: set up once, found where it should be; errors in one line."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests
from patience import PATIENCE

from runner import record, tracking
from runner.paths import Home
from runner.tracking import Tracker

SET_UP = """
import sys
from pathlib import Path
from runner import tracking
from runner.paths import Home
tracking.Tracker(tracking.target(Home(Path(sys.argv[1])), {})).check()
"""


def test_the_default_store_lies_in_the_home(tmp_path: Path) -> None:
    where = tracking.target(Home(tmp_path), {})
    assert (where.uri, where.experiment) == (f"sqlite:///{tmp_path}/mlflow.db", "capsnet")
    assert where.artifacts == f"file://{tmp_path}/artifacts"
    assert not where.served


def test_mlflows_own_variables_name_another_store_and_experiment(tmp_path: Path) -> None:
    environ = {"MLFLOW_TRACKING_URI": "http://lab:5000", "MLFLOW_EXPERIMENT_NAME": "thesis"}
    where = tracking.target(Home(tmp_path), environ)
    assert (where.uri, where.experiment, where.served) == ("http://lab:5000", "thesis", True)
    assert (where.artifacts, where.lock) == (None, None)


def test_another_database_keeps_its_files_in_the_home_and_not_wherever_the_publisher_stands(
    tmp_path: Path,
) -> None:
    where = tracking.target(Home(tmp_path), {"MLFLOW_TRACKING_URI": "postgresql://lab/mlflow"})
    assert (where.artifacts, where.served, where.lock) == (f"file://{tmp_path}/artifacts", False, None)


def test_no_password_is_in_what_is_said_of_an_error() -> None:
    long = ValueError("API request to http://ada:" + "secret" * 60 + "@lab/api failed\nand so on")
    assert tracking.explain(long) == "API request to http://lab/api failed"


def test_two_processes_that_set_up_a_new_store_at_once_make_one_without_a_word(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SET_UP, str(tmp_path)]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=PATIENCE)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said == ["", ""]
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}
    tracker = Tracker(tracking.target(Home(tmp_path), {}))
    tracker.check()
    [experiment] = tracker.client.search_experiments()
    assert (experiment.name, experiment.tags) == ("capsnet", tracking.EXPERIMENT_TAGS)


def test_a_deleted_experiment_is_one_line_with_both_ways_out(tmp_path: Path, new_mlflow_store: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(new_mlflow_store.read_bytes())
    tracker = Tracker(tracking.target(Home(tmp_path), {"MLFLOW_EXPERIMENT_NAME": "thesis"}))
    tracker.check()
    experiment = tracker.client.get_experiment_by_name("thesis")
    assert experiment is not None
    tracker.client.delete_experiment(experiment.experiment_id)
    with pytest.raises(tracking.TrackingError, match="'thesis' was deleted: restore it, or set MLFLOW_EXP"):
        tracker.check()


def test_a_large_history_is_written_in_batches_of_whole_epochs(
    tmp_path: Path, new_mlflow_store: Path
) -> None:
    (tmp_path / "mlflow.db").write_bytes(new_mlflow_store.read_bytes())
    tracker = Tracker(tracking.target(Home(tmp_path), {}))
    tracker.check()
    tags = {record.IDENTITY: "queue/1"}
    run = tracker.open(None, "1-long", 1.0, tags)
    metrics = {f"m{number}": 1.0 for number in range(299)}
    history = [{"epoch": epoch, "time": float(epoch), **metrics} for epoch in range(1, 9)]
    tracker.add_points(run, record.epochs(history))
    assert run.epoch == 8
    assert tracker.open(run.id, "1-long", 1.0, tags).epoch == 8
    assert len(tracker.client.get_metric_history(run.id, "m298")) == 8


def test_what_went_wrong_is_one_line_with_the_root_of_a_broken_connection() -> None:
    def connect() -> None:
        try:
            raise ConnectionRefusedError(111, "Connection refused")
        except OSError as error:
            try:
                raise ValueError("Max retries exceeded with url: <object at 0x7f>") from error
            except ValueError:
                raise RuntimeError("API request failed\nwith a long story") from None

    with pytest.raises(RuntimeError) as caught:
        connect()
    assert tracking.explain(caught.value) == "[Errno 111] Connection refused"
    assert tracking.explain(ValueError("first\nsecond")) == "first"
    assert tracking.explain(ValueError()) == "ValueError"


def test_why_a_server_broke_a_connection_off_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reset() -> None:
            connection, _ = server.accept()
            connection.recv(1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

        thread = threading.Thread(target=reset)
        thread.start()
        with pytest.raises(requests.ConnectionError) as caught:
            requests.get(f"http://127.0.0.1:{server.getsockname()[1]}/", timeout=PATIENCE)
        thread.join()
    assert tracking.explain(caught.value) == "[Errno 104] Connection reset by peer"
