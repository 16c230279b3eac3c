"""What all tests share."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

import capsnet  # noqa: F401 - before PyTorch, whose threads it keeps from spinning

# A busy machine must not fail a property: what is tested is what comes out, not how soon.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
