import torch

from capsnet import randomness


def test_the_same_seed_and_purpose_give_the_same_numbers():
    assert torch.equal(
        randomness.permutation(7, 1000, "order", 3), randomness.permutation(7, 1000, "order", 3)
    )


def test_another_seed_epoch_or_purpose_gives_other_numbers():
    drawn = [
        randomness.permutation(seed, 1000, purpose, epoch)
        for seed in (0, 1)
        for purpose in ("order", "split")
        for epoch in (1, 2)
    ]
    for i, first in enumerate(drawn):
        assert not any(torch.equal(first, other) for other in drawn[:i])


def test_seeds_that_agree_in_their_low_32_bits_differ():
    assert not torch.equal(
        randomness.permutation(1, 1000, "order"), randomness.permutation(1 + 2**32, 1000, "order")
    )


def test_neighbouring_arguments_cannot_be_mistaken_for_each_other():
    assert not torch.equal(
        randomness.permutation(1, 1000, "a", 11), randomness.permutation(1, 1000, "a", 1, 1)
    )


def test_the_numbers_stay_what_they_are_across_machines_and_versions():
    assert randomness.permutation(0, 8, "order", 1).tolist() == [7, 1, 5, 4, 0, 6, 2, 3]


def test_integers_reach_both_ends_evenly():
    drawn = randomness.integers(0, -2, 2, (50_000,), "shifts", 1)
    shares = torch.bincount(drawn + 2).double() / len(drawn)
    assert shares.shape == (5,)
    assert (shares - 0.2).abs().max() < 0.01
