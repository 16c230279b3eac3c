"""The step named in the error when a step with a finite loss made the weights not finite."""

import pytest
import torch

from capsnet.learner import Learner
from capsnet.training import TrainingError, train


@pytest.fixture
def spoil(monkeypatch):
    """Function that makes a given step, counted from 1, fill weights or moments with NaN."""

    def at(step, what):
        really = Learner.step
        taken = []

        def spoiling(self, batch):
            really(self, batch)
            taken.append(batch)
            if len(taken) == step:
                with torch.no_grad():
                    what(self).fill_(torch.nan)

        monkeypatch.setattr(Learner, "step", spoiling)

    return at


def weights(learner):
    return next(learner.network.parameters())


def moments(learner):
    return learner.optimizer.state[weights(learner)]["exp_avg"]


def test_an_evaluation_that_is_not_finite_names_the_epochs_last_step(tiny_config, tiny_splits, spoil):
    spoil(8, weights)
    with pytest.raises(TrainingError, match=r"^validation loss is nan after epoch 2, step 4$"):
        list(train(tiny_config(), splits=tiny_splits))


def test_a_state_at_an_epochs_end_is_refused_with_that_epochs_last_step(tiny_config, tiny_splits, spoil):
    spoil(8, moments)
    progresses = train(tiny_config(), splits=tiny_splits)
    end = next(p for p in progresses if (p.epoch, p.phase) == (2, "epoch_end"))
    with pytest.raises(TrainingError, match=r"^weights are not finite at epoch 2, step 4$"):
        end.snapshot()


def test_a_state_within_an_epoch_is_refused_with_its_last_step(tiny_config, tiny_splits, spoil):
    spoil(6, weights)
    progresses = train(tiny_config(), splits=tiny_splits, interval_seconds=0)
    within = next(p for p in progresses if (p.epoch, p.step) == (2, 2))
    with pytest.raises(TrainingError, match=r"^weights are not finite at epoch 2, step 2$"):
        within.snapshot()
