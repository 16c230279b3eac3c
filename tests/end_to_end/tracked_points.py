"""Prints what an MLflow server holds: `tracked_points.py URL` -> {run: {metric: [its steps]}} as JSON.

Runs on a host of the rehearsal, with nothing but Python: over HTTP, as any other client of the server.
"""

from __future__ import annotations

import json
import sys
import urllib.parse
import urllib.request
from typing import Any


def call(url: str, path: str, body: dict[str, Any] | None = None, **query: str) -> Any:
    data = json.dumps(body).encode() if body is not None else None
    address = f"{url}/api/2.0/mlflow/{path}?{urllib.parse.urlencode(query)}"
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def steps(url: str, run: str, key: str) -> list[int]:
    """The steps of every point, one entry a point."""
    found = call(url, "metrics/get-history", run_id=run, metric_key=key, max_results="10000")
    return [int(point["step"]) for point in found.get("metrics", [])]


def points(url: str) -> dict[str, dict[str, list[int]]]:
    experiments = call(url, "experiments/search", {"max_results": 100})["experiments"]
    ids = [experiment["experiment_id"] for experiment in experiments]
    runs = call(url, "runs/search", {"experiment_ids": ids, "max_results": 1000}).get("runs", [])
    return {
        run["info"]["run_name"]: {
            metric["key"]: steps(url, run["info"]["run_id"], metric["key"])
            for metric in run["data"].get("metrics", [])
        }
        for run in runs
    }


if __name__ == "__main__":
    print(json.dumps(points(sys.argv[1])))
