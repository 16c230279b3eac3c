"""Hosts that share nothing: a run goes on wherever there is room, with the code of its submission."""

from __future__ import annotations

import postgres
import pytest
import s3
from end_to_end import apart, hosts
from end_to_end.apart import EDITED, EPOCHS, INTERRUPTED, UNDISTURBED, Found

REASON = hosts.missing() or postgres.missing() or s3.missing()
pytestmark = [
    pytest.mark.rehearsal,
    pytest.mark.timeout(900),
    pytest.mark.skipif(REASON is not None, reason=f"no hosts to rehearse on: {REASON}"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """The rehearsal, once for all tests of this file: about two minutes on two cores."""
    return apart.rehearse(tmp_path_factory.mktemp("apart"))


def test_a_run_goes_on_on_another_host_when_its_own_is_gone_with_all_its_files(found: Found) -> None:
    run = found.runs[INTERRUPTED]
    assert run["state"] == "FINISHED"
    first, *_, last = run["attempts"]
    assert (first["host"], last["host"]) == ("worker-1", "worker-2")
    assert first["outcome"] == "stopped"


def test_it_ends_with_the_weights_of_a_run_that_nobody_disturbed(found: Found) -> None:
    assert len(found.runs[UNDISTURBED]["attempts"]) == 1
    assert len(found.weights[INTERRUPTED]) > 4
    assert found.weights[INTERRUPTED] == found.weights[UNDISTURBED]


def test_code_that_is_edited_later_does_not_reach_a_run_that_waits(found: Found) -> None:
    assert found.waited == "QUEUED"
    assert found.runs[UNDISTURBED]["state"] == "FINISHED"
    assert found.runs[EDITED]["state"] == "FAILED"
    assert "edited on the laptop" in found.runs[EDITED]["reason"]
    codes = [found.runs[number]["code"] for number in (INTERRUPTED, UNDISTURBED, EDITED)]
    assert codes[0] == codes[1] != codes[2]


def test_every_epoch_of_both_is_in_mlflow_once(found: Found) -> None:
    for number in (INTERRUPTED, UNDISTURBED):
        metrics = found.points[f"{number}-{found.runs[number]['name']}"]
        for key in ("train/loss", "test/accuracy"):
            assert sorted(metrics[key]) == list(range(1, EPOCHS + 1)), key
