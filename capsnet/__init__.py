"""Capsule networks: models, training as an iterator, evaluation.

Importing this package imports nothing heavy: the experiment runner's commands read
configurations (`capsnet.config`) without waiting for PyTorch.
"""

import os

# PyTorch's threads wait for each other after every operation, by default spinning for long. As soon as
# something else wants their cores, a waiting thread keeps the one that it waits for from running, and a small
# network trains several times slower. Threads that sleep at once are slower on idle cores; a short spin is
# good at both (docs/architecture.md has the figures). OpenMP reads this once, when PyTorch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.2.0"
