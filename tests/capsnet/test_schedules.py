import pytest
import torch
from pydantic import TypeAdapter

from capsnet.config import Cosine, Exponential, MultiStep, Optim
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


def test_warm_up_rises_in_even_steps_to_the_rate_of_the_schedule():
    drawn = rates(MultiStep(lr=0.01, warmup_epochs=2, milestone=(3,)), 4)
    assert drawn[:6] == pytest.approx([0.01 * step / 6 for step in range(1, 7)])
    assert drawn[6:] == pytest.approx([0.01] * 3 + [0.001] * 3)


def test_warm_up_of_a_part_of_an_epoch_and_under_a_falling_rate():
    plain, warmed = (rates(Cosine(lr=0.01, warmup_epochs=epochs), 4) for epochs in (0, 0.5))  # 1.5 steps
    assert warmed[0] == pytest.approx(plain[0] / 1.5)
    assert warmed[1:] == plain[1:]


def test_without_warm_up_the_rate_is_the_schedules_to_the_last_bit():
    optim = Exponential(lr=0.0007, decay=0.97)
    assert rates(optim, 3) == [0.0007 * 0.97**epoch for epoch in (0, 0, 0, 1, 1, 1, 2, 2, 2)]


def test_a_schedule_is_the_same_for_every_optimizer():
    schedules = {"multistep": {"milestone": [2]}, "exponential": {"decay": 0.9}, "cosine": {"floor": 1e-4}}
    for schedule, keys in schedules.items():
        drawn = [
            rates(TypeAdapter(Optim).validate_python({"name": name, "schedule": schedule, **keys}), 5)
            for name in ("adam", "adamw", "sgd")
        ]
        assert drawn[0] == drawn[1] == drawn[2]
        assert drawn[0][0] > drawn[0][-1] > 0
