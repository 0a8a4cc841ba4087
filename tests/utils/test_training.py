"""Sampler, generators, schedule, averages and the stop flag: all functions of the step."""

import os
import signal

import pytest
import torch
from torch import nn

from utils.training import (
    EpochSampler,
    ExponentialMovingAverage,
    StopFlag,
    learning_rate_factor,
    make_generator,
)


def draw(*keys):
    return torch.randn(4, generator=make_generator("cpu", *keys))


def test_generators_depend_on_their_keys_alone():
    assert torch.equal(draw(0, 5, 1), draw(0, 5, 1))


@pytest.mark.parametrize("other", [(0, 5, 2), (0, 6, 1), (1, 5, 1), (5, 0, 1), (0, 5)])
def test_other_keys_give_another_stream(other):
    assert not torch.equal(draw(0, 5, 1), draw(*other))


def test_an_epoch_draws_every_record_once():
    sampler = EpochSampler(range(10, 20), 5, seed=0)
    assert sorted(torch.cat([sampler.batch(0), sampler.batch(1)]).tolist()) == list(range(10, 20))


def test_batches_run_on_across_epochs():
    sampler = EpochSampler(range(7), 5, seed=0)
    drawn = torch.cat([sampler.batch(step) for step in range(7)]).view(5, 7)
    assert (
        all(sorted(epoch) == list(range(7)) for epoch in drawn.tolist())
        and len({tuple(e) for e in drawn.tolist()}) > 1
    )


def test_a_batch_may_be_larger_than_the_data():
    assert sorted(EpochSampler(range(3), 9, seed=0).batch(0).tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_batch_is_a_function_of_the_step():
    one, other = EpochSampler(range(50), 8, seed=3), EpochSampler(range(50), 8, seed=3)
    for step in range(20):
        one.batch(step)
    assert torch.equal(one.batch(20), other.batch(20)) and torch.equal(one.batch(1), other.batch(1))


def test_ranks_part_the_batch():
    sampler = EpochSampler(range(50), 8, seed=0)
    parts = [sampler.batch(3, rank, 4) for rank in range(4)]
    assert torch.equal(torch.cat(parts), sampler.batch(3))


def test_another_seed_is_another_order():
    assert not torch.equal(EpochSampler(range(50), 50, 0).batch(0), EpochSampler(range(50), 50, 1).batch(0))


def sized_sampler(batch_size=8, seed=0):
    return EpochSampler(range(500), batch_size, seed, sizes=[i * 7 % 100 for i in range(500)])


def test_batches_of_one_size_still_draw_every_record_once_an_epoch():
    drawn = torch.cat([sized_sampler().batch(step) for step in range(125)]).view(2, 500)
    assert all(sorted(epoch) == list(range(500)) for epoch in drawn.tolist())


def test_a_batch_holds_words_of_similar_size():
    spreads = [float((sized_sampler().batch(step) * 7 % 100).float().std()) for step in range(125)]
    assert sum(spreads) / len(spreads) < 6 < 29  # 29: the spread of all sizes


def test_the_sizes_of_batches_come_in_no_order():
    means = [float((sized_sampler().batch(step) * 7 % 100).float().mean()) for step in range(16)]
    assert means != sorted(means)


def test_the_rate_warms_up_and_comes_down_to_two_percent():
    rates = [
        learning_rate_factor(step, warmup_steps=10, horizon=110, schedule="cosine")
        for step in (0, 9, 10, 60, 110, 500)
    ]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 0.51, 0.02, 0.02])


def test_the_constant_rate_stays():
    assert learning_rate_factor(10**6, warmup_steps=10, horizon=20, schedule="constant") == 1.0


def test_no_warm_up_is_allowed():
    assert learning_rate_factor(0, warmup_steps=0, horizon=0, schedule="cosine") == 1.0


def test_the_average_warms_up():
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    average = ExponentialMovingAverage(module, 0.9995)
    nn.init.ones_(module.weight)
    average.update(module, 1)
    assert average.module.weight.item() == pytest.approx(1 - 2 / 11)


def test_decay_0_is_no_averaging():
    module = nn.Linear(1, 1)
    average = ExponentialMovingAverage(nn.Linear(1, 1), 0.0)
    average.update(module, 7)
    assert average.module.weight.item() == pytest.approx(module.weight.item())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_becomes_a_flag(number):
    before = signal.getsignal(number)
    with StopFlag() as stop:
        assert not stop.is_set
        os.kill(os.getpid(), number)
        assert stop.is_set
    assert signal.getsignal(number) == before


def test_a_second_interrupt_ends_at_once():
    with pytest.raises(KeyboardInterrupt), StopFlag():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
