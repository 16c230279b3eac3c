"""Capsule networks: models, training as an iterator, evaluation.

Importing this package imports nothing heavy: the experiment runner's commands read
configurations (`capsnet.config`) without waiting for PyTorch.
"""

import os

# PyTorch's threads wait for each other after every operation, by default spinning. As soon as something else
# wants their cores, a waiting thread then keeps the one that it waits for from running: on two cores that
# several processes shared, a small network trained three to ten times slower than with threads that sleep.
# OpenMP reads this once, when PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
