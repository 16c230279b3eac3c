"""Capsule networks: models, training as an iterator, evaluation.

Importing this package imports nothing heavy: the experiment runner's commands read
configurations (`capsnet.config`) without waiting for PyTorch.
"""

__version__ = "0.1.0"
