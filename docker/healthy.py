"""Whether the service of a container does its work: `healthy.py node`, `head` or `mlflow`; exit code 0 or 1.

Cheap enough to be asked every few seconds: it imports neither ray nor mlflow.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request

import psutil

SECONDS = 8.0


def node() -> str | None:
    """What is wrong with the Ray node of this container; None when nothing is.

    `ray start --block` goes on without its raylet when that has ended by itself, as after a drain.
    """
    names = {process.info["name"] for process in psutil.process_iter(["name"])}
    return None if "raylet" in names else "no raylet runs here"


def head() -> str | None:
    """What is wrong with the head: its Ray node, or the queue's scheduler."""
    if problem := node():
        return problem
    command = [sys.executable, "-m", "runner", "status", "--json"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"`runner status` took longer than {SECONDS:g} s"
    if asked.returncode:
        return asked.stderr.strip() or f"`runner status` ended with {asked.returncode}"
    return None if json.loads(asked.stdout)["scheduler"]["alive"] else "the scheduler does not serve"


def mlflow() -> str | None:
    """What is wrong with the MLflow server of this container."""
    try:
        with urllib.request.urlopen("http://127.0.0.1:5000/health", timeout=SECONDS):
            return None
    except (urllib.error.URLError, TimeoutError) as error:
        return f"the MLflow server does not answer: {error}"


CHECKS = {"node": node, "head": head, "mlflow": mlflow}


def main(arguments: list[str]) -> int:
    problem = CHECKS[arguments[0]]()
    print(problem or "healthy")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
