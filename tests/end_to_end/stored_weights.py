"""Prints what a run's storage holds of its weights: `stored_weights.py RUN` -> {name: digest} as JSON.

Runs on a host that knows the queue and the storage by its environment, and has nothing of the run's files.
"""

from __future__ import annotations

import hashlib
import json
import sys

from capsnet.checkpoint import load
from runner import storage
from runner.paths import home
from runner.store import open_store


def main() -> None:
    place = home()
    with open_store(place, create=False) as store:
        run = store.run(int(sys.argv[1]))
    assert run is not None
    with storage.of(place).checkpoint(run) as checkpoint:
        assert checkpoint is not None
        weights = load(checkpoint)["model"]
    digests = {name: hashlib.sha256(tensor.numpy().tobytes()) for name, tensor in weights.items()}
    print(json.dumps({name: digest.hexdigest() for name, digest in digests.items()}))


if __name__ == "__main__":
    main()
