"""Marks that skip a test, with the reason, on a machine that lacks what the test needs."""

from __future__ import annotations

import pytest

from capsnet.execution import can_bfloat16

needs_bfloat16 = pytest.mark.skipif(not can_bfloat16("cpu"), reason="this CPU has no bfloat16")
PRECISIONS = ["float32", pytest.param("bfloat16", marks=needs_bfloat16)]
