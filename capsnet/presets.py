"""Named sets of defaults: the paper's text, and what the authors' own code does differently.

`paper` is empty, as the other defaults are the text's. The text has the learning rate decay exponentially
but leaves the numbers open, so that whether and how it decays is left to `optim`.

`authors` keeps `num_epochs`. Their run had 300,000 steps, about 640 epochs; by the 50th their decay has
only reached 0.62 of the first rate.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "authors": {
        "model": {"name": "capsnet", "primary_routing": "softmax", "class_bias": True, "init": "authors"},
        "loss": {"name": "margin", "margin": "authors"},
        "optim": {"schedule": "exponential", "decay": 0.96, "per": "step", "every": 2000, "floor": 1e-6},
    },
}
# What else the authors' code does where `none_of_the_above` is on, which it calls leaky: it is one switch for
# both layers of capsules.
AUTHORS_LEAK: dict[str, Any] = {"model": {"name": "capsnet", "primary_routing": "leaky"}}
KIND_KEYS = ("name", "schedule")  # the keys that choose a kind of section


def underlay(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """`values` over `defaults`, section by section.

    Defaults for another kind of section than the one that `values` chooses do not apply.
    """
    merged = dict(defaults)
    for key, value in values.items():
        below = defaults.get(key)
        if isinstance(value, dict) and isinstance(below, dict) and not _other_kind(value, below):
            value = underlay(value, below)
        merged[key] = value
    return merged


def _other_kind(value: dict[str, Any], below: dict[str, Any]) -> bool:
    return any(key in value and key in below and value[key] != below[key] for key in KIND_KEYS)
