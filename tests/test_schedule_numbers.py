"""The numbers that other libraries publish for their schedules, in their own tests; and PyTorch's, step by step."""

import numpy as np
import pytest
from cases.schedules import square
from stepping import BACKEND

from keras_optreg.schedules import (
    REX,
    CosineDecay,
    CosineRestarts,
    Cyclical,
    ExponentialDecay,
    Interpolation,
    InverseSquareRoot,
    OneCycle,
    PiecewiseConstant,
    PolynomialDecay,
    WarmupStableDecay,
    join,
    scale,
    shapes,
    warmup,
)

only_on_torch = pytest.mark.skipif(BACKEND != "torch", reason="compares with PyTorch")


def at(steps, rates):
    return dict(zip(steps, rates, strict=True))


# name: (schedule, {step: the published number}, the tolerance of the publisher's test)
PUBLISHED = {
    "optax, linear_onecycle_schedule": (
        OneCycle(1000.0, 10, 0.3, div_factor=10, final_div_factor=100, annihilation_fraction=0.3, shape=shapes.linear),
        at(range(12), [100, 400, 700, 1000, 775, 550, 325, 100, 67, 34, 1, 1]),
        1e-3,
    ),
    "optax, cosine_onecycle_schedule": (
        OneCycle(1000.0, 5, 0.4, div_factor=10, final_div_factor=100),
        at(range(7), [100, 550, 1000, 750.25, 250.75, 1, 1]),
        1e-3,
    ),
    "optax, piecewise_interpolate_schedule, linear": (
        Interpolation([0, 5, 10], [200, 300, 75]),
        at(range(13), [200, 220, 240, 260, 280, 300, 255, 210, 165, 120, 75, 75, 75]),
        1e-3,
    ),
    "optax, piecewise_interpolate_schedule, cosine": (
        Interpolation([0, 3, 5, 7], [400, 240, 288, 288], shapes.cosine),
        at(range(9), [400, 360, 280, 240, 264, 288, 288, 288, 288]),
        1e-3,
    ),
    "optax, piecewise_constant_schedule": (
        join([0.1, 0.2, 0.1], [3, 6]),
        at(range(10), [0.1, 0.1, 0.1, 0.2, 0.2, 0.2, 0.1, 0.1, 0.1, 0.1]),
        1e-3,
    ),
    "optax, sgdr_schedule with step decay": (
        join(
            [warmup(CosineDecay(rate, n - 500), 500) for rate, n in ((1.6, 2000), (0.8, 3000), (0.4, 5000))],
            [2000, 5000],
        ),
        {500: 1.6, 2500: 0.8, 5500: 0.4},
        1e-6,
    ),
    "optax, polynomial_schedule from a later step": (
        join([30.0, PolynomialDecay(30.0, 10, 10.0, power=2.0)], [4]),
        at(range(20), [30.0] * 4 + [10 + 20 * (1 - n / 10) ** 2 for n in range(10)] + [10.0] * 6),
        1e-3,
    ),
    "TensorFlow Addons, TriangularCyclicalLearningRate": (
        Cyclical(0.1, 1.0, 40),
        at(range(81), [*np.linspace(0.1, 1, 41), *np.linspace(1, 0.1, 41)[1:]]),
        1e-6,
    ),
    # Addons skips its own tests of the next two, whose `step_size` still means a whole cycle; the numbers are theirs.
    "TensorFlow Addons, Triangular2CyclicalLearningRate": (
        Cyclical(0.1, 1.0, 2000, cycle_factor=0.5),
        at(range(0, 8001, 250), np.interp(range(0, 8001, 250), range(0, 8001, 2000), [0.1, 1, 0.1, 0.55, 0.1])),
        1e-6,
    ),
    "TensorFlow Addons, ExponentialCyclicalLearningRate": (
        Cyclical(0.1, 1.0, 2000, step_factor=0.996),
        {
            i: 0.1 + 0.9 * max(0, 1 - abs(i / 2000 - 2 * np.floor(1 + i / 4000) + 1)) * 0.996**i
            for i in (1, 100, 1999, 2000, 2001, 3999, 4000, 4500, 6000, 8000)
        },
        1e-6,
    ),
    "transformers, cosine with hard restarts and warm-up": (
        warmup(CosineRestarts(10.0, 4, t_mul=1.0), 2),
        at(range(10), [0.0, 5.0, 10.0, 8.53, 5.0, 1.46, 10.0, 8.53, 5.0, 1.46]),
        1e-2,
    ),
    "transformers, linear with warm-up": (
        warmup(PolynomialDecay(10.0, 8, 0.0), 2),
        at(range(10), [0.0, 5.0, 10.0, 8.75, 7.5, 6.25, 5.0, 3.75, 2.5, 1.25]),
        1e-2,
    ),
    "transformers, inverse square root": (
        InverseSquareRoot(10.0, 2),
        at(range(10), [0.0, 5.0, 10.0, 8.165, 7.071, 6.325, 5.774, 5.345, 5.0, 4.714]),
        1e-2,
    ),
    "pytorch_optimizer, REXScheduler": (
        REX(1.0, 5),
        at(range(1, 6), [0.888888, 0.749999, 0.571428, 0.333333, 0.0]),
        2e-6,
    ),
    "pytorch_optimizer, WSD, cosine": (
        WarmupStableDecay(1e-3, 2, 2, 3, end_learning_rate=1e-4, shape=shapes.cosine),
        at(range(1, 10), [0.0005, 0.001, 0.001, 0.001, 0.000775, 0.000325, 0.0001, 0.0001, 0.0001]),
        1e-7,
    ),
    # The other three fall towards 0 there, and stop at a tenth from step 7 on.
    "pytorch_optimizer, WSD, 1-sqrt": (
        WarmupStableDecay(1e-3, 2, 2, 3),
        at(range(1, 7), [0.0005, 0.001, 0.001, 0.001, 0.0004226, 0.0001835]),
        1e-7,
    ),
    "pytorch_optimizer, WSD, 1-square": (
        WarmupStableDecay(1e-3, 2, 2, 3, shape=square),
        at(range(1, 7), [0.0005, 0.001, 0.001, 0.001, 0.0008888, 0.0005555]),
        1e-7,
    ),
    "pytorch_optimizer, WSD, linear": (
        WarmupStableDecay(1e-3, 2, 2, 3, shape=shapes.linear),
        at(range(1, 7), [0.0005, 0.001, 0.001, 0.001, 0.0006666, 0.0003333]),
        1e-7,
    ),
    "timm, CosineLRScheduler": (CosineDecay(0.1, 100, alpha=0.01), {0: 0.1, 50: 0.0505, 100: 0.001}, 1e-6),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_equals_the_published_numbers(name):
    schedule, expected, tolerance = PUBLISHED[name]
    rates = [float(schedule(step)) for step in expected]
    np.testing.assert_allclose(rates, [*expected.values()], rtol=1e-6, atol=tolerance)


# Theirs, with `S` for torch.optim.lr_scheduler; how many steps; the rate and the momentum here.
TORCH = {
    "S.OneCycleLR(o, 0.1, total_steps=100)": (
        100,
        OneCycle(0.1, 99, 29 / 99),
        OneCycle(0.1, 99, 29 / 99).momentum(),
    ),
    "S.OneCycleLR(o, 0.1, total_steps=100, anneal_strategy='linear', pct_start=0.45, div_factor=9)": (
        100,
        OneCycle(0.1, 99, 44 / 99, div_factor=9, shape=shapes.linear),
        OneCycle(0.1, 99, 44 / 99, shape=shapes.linear).momentum(),
    ),
    "S.OneCycleLR(o, 0.1, total_steps=100, three_phase=True, base_momentum=0.7, max_momentum=0.9)": (
        100,
        OneCycle(0.1, 99, 29 / 99, annihilation_fraction=41 / 99),
        OneCycle(0.1, 99, 29 / 99, annihilation_fraction=41 / 99).momentum(0.9, 0.7),
    ),
    "S.CyclicLR(o, 0.01, 0.1, step_size_up=7)": (80, Cyclical(0.01, 0.1, 7), Cyclical(0.9, 0.8, 7)),
    "S.CyclicLR(o, 0.01, 0.1, step_size_up=7, step_size_down=13, mode='triangular2')": (
        80,
        Cyclical(0.01, 0.1, 7, 13, cycle_factor=0.5),
        Cyclical(0.9, 0.8, 7, 13, cycle_factor=0.5),
    ),
    "S.CyclicLR(o, 0.01, 0.1, step_size_up=7, mode='exp_range', gamma=0.99)": (
        80,
        Cyclical(0.01, 0.1, 7, step_factor=0.99),
        Cyclical(0.9, 0.8, 7, step_factor=0.99),
    ),
    "S.PolynomialLR(o, total_iters=30, power=2.0)": (40, PolynomialDecay(0.1, 30, 0.0, power=2.0), None),
    "S.ConstantLR(o, factor=0.5, total_iters=10)": (20, join([0.05, 0.1], [10]), None),
    "S.SequentialLR(o, [S.LinearLR(o, 0.01, total_iters=10), S.CosineAnnealingLR(o, 30)], [10])": (
        40,
        warmup(CosineDecay(0.1, 30), 10, start=1e-3),
        None,
    ),
    "S.ChainedScheduler([S.LinearLR(o, 0.1, total_iters=10), S.ExponentialLR(o, 0.9)], o)": (
        40,
        scale(ExponentialDecay(0.1, 1, 0.9), warmup(1.0, 10, start=0.1)),
        None,
    ),
    "S.MultiStepLR(o, [5, 20])": (40, PiecewiseConstant([4, 19], [0.1, 0.01, 0.001]), None),
}


@only_on_torch
@pytest.mark.filterwarnings("ignore:.*epoch parameter in `scheduler.step:UserWarning")
@pytest.mark.parametrize("theirs", TORCH)
def test_equals_pytorch_step_by_step(theirs):
    import torch

    steps, rate, momentum = TORCH[theirs]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    scheduler = eval(theirs, {"S": torch.optim.lr_scheduler, "o": optimizer})
    for step in range(steps):
        [group] = optimizer.param_groups
        assert float(rate(step)) == pytest.approx(group["lr"], rel=3e-6, abs=5e-9), step
        if momentum is not None:
            assert float(momentum(step)) == pytest.approx(group["momentum"], rel=3e-6), step
        optimizer.step()
        if step + 1 < steps:
            scheduler.step()
