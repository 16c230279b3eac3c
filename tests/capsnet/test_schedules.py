import pytest
import torch

from capsnet.config import Cosine, Exponential, MultiStep
from capsnet.schedules import learning_rate


def rates(optim, num_epochs, steps_per_epoch=3):
    steps = range(num_epochs * steps_per_epoch)
    return [learning_rate(optim, step, steps_per_epoch, num_epochs) for step in steps]


def rates_of_torch(schedule, num_epochs, steps_per_epoch=3, **options):
    """The rates that a stateful scheduler of PyTorch, stepped once an epoch, would have set."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    scheduler = schedule(optimizer, **options)
    drawn = []
    for _ in range(num_epochs):
        drawn += [optimizer.param_groups[0]["lr"]] * steps_per_epoch
        optimizer.step()
        scheduler.step()
    return drawn


def test_multistep_is_that_of_torch():
    optim = MultiStep(lr=0.01, step_decay=0.5, milestone=(2, 3, 7))
    expected = rates_of_torch(torch.optim.lr_scheduler.MultiStepLR, 10, milestones=[2, 3, 7], gamma=0.5)
    assert rates(optim, 10) == pytest.approx(expected, rel=1e-12)


def test_exponential_per_epoch_is_that_of_torch():
    optim = Exponential(lr=0.01, decay=0.9)
    expected = rates_of_torch(torch.optim.lr_scheduler.ExponentialLR, 10, gamma=0.9)
    assert rates(optim, 10) == pytest.approx(expected, rel=1e-12)


def test_exponential_per_step_is_that_of_the_authors_with_their_floor():
    optim = Exponential(lr=0.001, decay=0.96, per="step", every=2000, floor=1e-6)
    assert learning_rate(optim, 0, 468, 1000) == 0.001
    assert learning_rate(optim, 1000, 468, 1000) == pytest.approx(0.001 * 0.96**0.5)
    assert learning_rate(optim, 2000, 468, 1000) == pytest.approx(0.00096)
    assert learning_rate(optim, 10**6, 468, 10**4) == 1e-6


def test_cosine_falls_from_the_rate_to_the_floor():
    drawn = rates(Cosine(lr=0.01, floor=0.001), 10)
    assert drawn[0] == pytest.approx(0.01)
    assert drawn[15] == pytest.approx(0.0055)
    assert drawn[-1] == pytest.approx(0.001, rel=0.05)
    assert drawn == sorted(drawn, reverse=True)
