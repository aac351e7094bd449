"""One row a schedule: how to make it, its float64 reference written from the formula, and Keras's peer."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import keras
import numpy as np

from keras_optreg import schedules
from keras_optreg.schedules import shapes

K = keras.optimizers.schedules


@dataclass(frozen=True)
class Case:
    """A row.

    Attributes:
        name: of the test.
        make: the schedule.
        reference: `step -> rate`, a Python number to a float64.
        keras_peer: Keras's schedule, which must agree, or None where Keras has none.
        bad: keyword arguments, each of which makes the schedule illegal.
        differs_at: steps at which Keras's peer is known to differ, with the reason in the class's docstring.
        repeats: it comes round again, so that very late steps lose its phase with their last digits.
    """

    name: str
    make: Callable[..., Any]
    reference: Callable[[float], float]
    keras_peer: Callable[[], Any] | None = None
    bad: tuple[dict[str, Any], ...] = ()
    differs_at: tuple[int, ...] = ()
    repeats: bool = False

    def __str__(self) -> str:
        return self.name


def maker(cls: Any, **arguments: Any) -> Callable[..., Any]:
    return lambda **changed: cls(**{**arguments, **changed})


def cosine(rate: float, t: float, total: float, alpha: float = 0.0) -> float:
    return rate * (alpha + (1 - alpha) * 0.5 * (1 + np.cos(np.pi * min(t, total) / total)))


def restarts(t: int, rate: float, first: int, t_mul: int, m_mul: float, alpha: float) -> float:
    # By walking through the cycles, where the formula takes a logarithm.
    length, height = first, 1.0
    while t >= length:
        t, length, height = t - length, length * t_mul, height * m_mul
    return rate * (alpha + (1 - alpha) * height * 0.5 * (1 + np.cos(np.pi * t / length)))


def polynomial(t: int, rate: float, total: int, end: float, power: float, cycle: bool = False) -> float:
    total = total * max(-(-t // total), 1) if cycle else total
    return (rate - end) * (1 - min(t, total) / total) ** power + end


def fall(x: float) -> float:
    return 0.5 * (1 + np.cos(np.pi * x))


def one_minus_sqrt(x: float) -> float:
    return 1 - np.sqrt(x)


def to_a_tenth(x: float) -> float:
    return (0.1**x - 0.1) / 0.9


def straight(x: float) -> float:
    return 1 - x


def through(t: float, points: list[tuple[float, float]], shape: Callable[[float], float] = straight) -> float:
    """Between the points (step, value) by the shape; the first value before them, the last after them."""
    for (begin, first), (end, last) in pairwise(points):
        if t < end:
            return last + (first - last) * shape(max(t - begin, 0) / (end - begin))
    return points[-1][1]


def cyclical(t: float, low: float, high: float, up: int, down: int) -> float:
    # The paper's code for equal halves: x = |t/n − 2c + 1|, c = ⌊1 + t/2n⌋, low + (high − low) · max(0, 1 − x).
    if up == down:
        return low + (high - low) * max(0, 1 - abs(t / up - 2 * np.floor(1 + t / (2 * up)) + 1))
    t = t % (up + down)
    return low + (high - low) * (t / up if t < up else 1 - (t - up) / down)


def noam(s: float, d_model: int, warmup: int) -> float:
    """Equation 3 of the transformers' paper."""
    return d_model**-0.5 * min(s**-0.5, s * warmup**-1.5) if s else 0.0


@keras.saving.register_keras_serializable("keras_optreg_tests")
def square(fraction: Any) -> Any:
    return 1.0 - fraction * fraction


EXPONENTIAL = dict(initial_learning_rate=0.8, decay_steps=7, decay_rate=0.5)
INVERSE = dict(initial_learning_rate=0.8, decay_steps=7, decay_rate=0.3)
POLYNOMIAL = dict(initial_learning_rate=0.8, decay_steps=30, end_learning_rate=0.05, power=0.5)
RESTARTS = dict(initial_learning_rate=0.8, first_decay_steps=10, t_mul=2.0, m_mul=0.5, alpha=0.1)
WARMED = dict(initial_learning_rate=0.1, decay_steps=40, alpha=0.1, warmup_target=0.8, warmup_steps=9)

CASES = [
    Case(
        "ExponentialDecay",
        maker(schedules.ExponentialDecay, **EXPONENTIAL),
        lambda t: 0.8 * 0.5 ** (t / 7),
        lambda: K.ExponentialDecay(**EXPONENTIAL),
        bad=({"initial_learning_rate": -0.1}, {"decay_steps": 0}, {"decay_rate": -1}),
    ),
    Case(
        "ExponentialDecay(staircase)",
        maker(schedules.ExponentialDecay, **EXPONENTIAL, staircase=True),
        lambda t: 0.8 * 0.5 ** (t // 7),
        lambda: K.ExponentialDecay(**EXPONENTIAL, staircase=True),
    ),
    Case(
        "InverseTimeDecay",
        maker(schedules.InverseTimeDecay, **INVERSE),
        lambda t: 0.8 / (1 + 0.3 * t / 7),
        lambda: K.InverseTimeDecay(**INVERSE),
        bad=({"initial_learning_rate": float("nan")}, {"decay_steps": -3}, {"decay_rate": -1}),
    ),
    Case(
        "InverseTimeDecay(staircase)",
        maker(schedules.InverseTimeDecay, **INVERSE, staircase=True),
        lambda t: 0.8 / (1 + 0.3 * (t // 7)),
        lambda: K.InverseTimeDecay(**INVERSE, staircase=True),
    ),
    Case(
        "PolynomialDecay",
        maker(schedules.PolynomialDecay, **POLYNOMIAL),
        lambda t: polynomial(t, 0.8, 30, 0.05, 0.5),
        lambda: K.PolynomialDecay(**POLYNOMIAL),
        bad=({"decay_steps": 0}, {"end_learning_rate": -1}, {"power": 0}),
    ),
    Case(
        "PolynomialDecay(power=1)",
        maker(schedules.PolynomialDecay, initial_learning_rate=0, decay_steps=30, end_learning_rate=1),
        lambda t: min(t, 30) / 30,
        lambda: K.PolynomialDecay(0.0, 30, 1.0),
    ),
    Case(
        "PolynomialDecay(cycle)",
        maker(schedules.PolynomialDecay, **POLYNOMIAL, cycle=True),
        lambda t: polynomial(t, 0.8, 30, 0.05, 0.5, cycle=True),
        lambda: K.PolynomialDecay(**POLYNOMIAL, cycle=True),
        repeats=True,
    ),
    Case(
        "StepDecay",
        maker(schedules.StepDecay, initial_learning_rate=0.8, drop=0.5, every=7),
        lambda t: 0.8 * 0.5 ** (t // 7),
        lambda: K.ExponentialDecay(0.8, 7, 0.5, staircase=True),
        bad=({"drop": -0.5}, {"every": 0}),
    ),
    Case(
        "PiecewiseConstant",
        maker(schedules.PiecewiseConstant, boundaries=[7, 20], values=[0.8, 0.4, 0.1]),
        lambda t: 0.8 if t <= 7 else 0.4 if t <= 20 else 0.1,
        lambda: K.PiecewiseConstantDecay([7, 20], [0.8, 0.4, 0.1]),
        bad=({"boundaries": [7]}, {"boundaries": [20, 7]}, {"boundaries": [7, 7]}, {"values": [0.8, -0.1, 0.1]}),
    ),
    Case(
        "CosineDecay",
        maker(schedules.CosineDecay, initial_learning_rate=0.8, decay_steps=40),
        lambda t: cosine(0.8, t, 40),
        lambda: K.CosineDecay(0.8, 40),
        bad=({"alpha": 1.1}, {"decay_steps": 0}, {"warmup_steps": 5}, {"warmup_target": -1.0}),
    ),
    Case(
        "CosineDecay(warm-up)",
        maker(schedules.CosineDecay, **WARMED),
        lambda t: 0.1 + 0.7 * t / 9 if t < 9 else cosine(0.8, t - 9, 40, 0.1),
        lambda: K.CosineDecay(**WARMED),
    ),
    Case(
        "CosineRestarts",
        maker(schedules.CosineRestarts, **RESTARTS),
        lambda t: restarts(t, 0.8, 10, 2, 0.5, 0.1),
        lambda: K.CosineDecayRestarts(**RESTARTS),
        bad=({"t_mul": 0.5}, {"m_mul": -1}, {"first_decay_steps": 0}),
        repeats=True,
    ),
    Case(
        "CosineRestarts(t_mul=1)",
        maker(schedules.CosineRestarts, initial_learning_rate=0.8, first_decay_steps=7, t_mul=1),
        lambda t: restarts(t, 0.8, 7, 1, 1.0, 0.0),
        lambda: K.CosineDecayRestarts(0.8, 7, 1.0),
        repeats=True,
    ),
    Case(
        "CosineRestarts(t_mul=3)",
        maker(schedules.CosineRestarts, initial_learning_rate=0.8, first_decay_steps=7, t_mul=3),
        lambda t: restarts(t, 0.8, 7, 3, 1.0, 0.0),
        lambda: K.CosineDecayRestarts(0.8, 7, 3.0),
        differs_at=(7, 28, 91),
        repeats=True,
    ),
    Case(
        "warmup",
        lambda: schedules.warmup(schedules.CosineDecay(0.8, 40), 9, start=0.2),
        lambda t: 0.2 + 0.6 * t / 9 if t < 9 else cosine(0.8, t - 9, 40),
    ),
    Case("warmup(number)", lambda: schedules.warmup(0.8, 9), lambda t: 0.8 * min(t, 9) / 9),
    Case(
        "warmup(Keras's schedule)",
        lambda: schedules.warmup(K.ExponentialDecay(0.8, 7, 0.5), 9),
        lambda t: 0.8 * t / 9 if t < 9 else 0.8 * 0.5 ** ((t - 9) / 7),
    ),
    Case(
        "join",
        lambda: schedules.join(
            [0.3, schedules.PolynomialDecay(0.8, 10, 0.0), schedules.StepDecay(0.1, 0.5, 4)], [5, 20]
        ),
        lambda t: 0.3 if t < 5 else 0.8 * (1 - min(t - 5, 10) / 10) if t < 20 else 0.1 * 0.5 ** ((t - 20) // 4),
    ),
    Case(
        "REX",
        maker(schedules.REX, initial_learning_rate=0.8, decay_steps=30, end_learning_rate=0.1),
        lambda t: 0.1 + 0.7 * (1 - min(t, 30) / 30) / (1 - min(t, 30) / 60),
        bad=({"initial_learning_rate": -1}, {"decay_steps": 0}, {"end_learning_rate": -1}),
    ),
    Case(
        "InverseSquareRoot",
        maker(schedules.InverseSquareRoot, peak_learning_rate=(16 * 9) ** -0.5, warmup_steps=9),
        lambda t: noam(t, 16, 9),
        bad=({"peak_learning_rate": -1}, {"warmup_steps": 0}),
    ),
    Case(
        "FlatCosine",
        maker(schedules.FlatCosine, initial_learning_rate=0.8, total_steps=50, alpha=0.1),
        lambda t: 0.8 if t < 37.5 else cosine(0.8, t - 37.5, 12.5, 0.1),
        bad=({"total_steps": 0}, {"flat_fraction": 1}, {"alpha": 1.1}, {"initial_learning_rate": -1}),
    ),
    Case(
        "FlatCosine(flat_fraction=0)",
        maker(schedules.FlatCosine, initial_learning_rate=0.8, total_steps=50, flat_fraction=0),
        lambda t: cosine(0.8, t, 50),
        lambda: K.CosineDecay(0.8, 50),
    ),
    Case(
        "Cyclical(triangular)",
        maker(schedules.Cyclical, initial_learning_rate=0.1, maximal_learning_rate=0.9, step_size=7),
        lambda t: cyclical(t, 0.1, 0.9, 7, 7),
        bad=({"initial_learning_rate": -1}, {"maximal_learning_rate": -1}, {"step_size": 0}, {"step_size_down": 0}),
        repeats=True,
    ),
    Case(
        "Cyclical(triangular2)",
        maker(schedules.Cyclical, initial_learning_rate=0.1, maximal_learning_rate=0.9, step_size=7, cycle_factor=0.5),
        lambda t: 0.1 + (cyclical(t, 0.1, 0.9, 7, 7) - 0.1) / 2 ** (t // 14),
        bad=({"cycle_factor": 0}, {"cycle_factor": 1.1}),
        repeats=True,
    ),
    Case(
        "Cyclical(exp_range)",
        maker(schedules.Cyclical, initial_learning_rate=0.1, maximal_learning_rate=0.9, step_size=7, step_factor=0.996),
        lambda t: 0.1 + (cyclical(t, 0.1, 0.9, 7, 7) - 0.1) * 0.996**t,
        bad=({"step_factor": 0}, {"step_factor": 1.001}),
        repeats=True,
    ),
    Case(
        "Cyclical(downwards, step_size_down)",
        maker(
            schedules.Cyclical,
            initial_learning_rate=0.9,
            maximal_learning_rate=0.8,
            step_size=5,
            step_size_down=11,
        ),
        lambda t: cyclical(t, 0.9, 0.8, 5, 11),
        repeats=True,
    ),
    Case(
        "OneCycle",
        maker(schedules.OneCycle, maximal_learning_rate=0.8, total_steps=70),
        lambda t: through(t, [(0, 0.032), (21, 0.8), (70, 3.2e-6)], fall),
        bad=(
            {"maximal_learning_rate": -1},
            {"total_steps": 0},
            {"warmup_fraction": 1},
            {"div_factor": 0},
            {"final_div_factor": 0},
            {"annihilation_fraction": 0.8},
            {"annihilation_fraction": 0},
        ),
    ),
    Case(
        "OneCycle(linear, annihilation)",
        maker(
            schedules.OneCycle,
            maximal_learning_rate=0.8,
            total_steps=50,
            warmup_fraction=0.45,
            div_factor=10,
            final_div_factor=100,
            annihilation_fraction=0.1,
            shape=shapes.linear,
        ),
        lambda t: through(t, [(0, 0.08), (22.5, 0.8), (45, 0.08), (50, 8e-4)]),
    ),
    Case(
        "OneCycle(without a climb)",
        maker(schedules.OneCycle, maximal_learning_rate=0.8, total_steps=50, warmup_fraction=0.0),
        lambda t: through(t, [(0, 0.8), (50, 3.2e-6)], fall),
    ),
    Case(
        "OneCycle(total_steps=1)",
        maker(schedules.OneCycle, maximal_learning_rate=0.8, total_steps=1),
        lambda t: through(t, [(0, 0.032), (0.3, 0.8), (1, 3.2e-6)], fall),
    ),
    Case(
        "OneCycle.momentum",
        lambda: schedules.OneCycle(0.8, 70).momentum(),
        lambda t: through(t, [(0, 0.95), (21, 0.85), (70, 0.95)], fall),
    ),
    Case(
        "OneCycle.momentum(annihilation)",
        lambda: schedules.OneCycle(0.8, 50, annihilation_fraction=0.4, shape=shapes.linear).momentum(0.9, 0.7),
        lambda t: through(t, [(0, 0.9), (15, 0.7), (30, 0.9)]),
    ),
    Case(
        "OneCycle.momentum(without a climb)",
        lambda: schedules.OneCycle(0.8, 50, warmup_fraction=0.0).momentum(),
        lambda t: through(t, [(0, 0.85), (50, 0.95)], fall),
    ),
    Case(
        "Interpolation",
        maker(schedules.Interpolation, steps=[3, 10, 40], values=[0.2, 0.8, 0.0]),
        lambda t: np.interp(t, [3, 10, 40], [0.2, 0.8, 0.0]),
        bad=({"steps": [3, 10]}, {"steps": [3, 3, 4]}, {"steps": [-1, 3, 4]}, {"values": [0.2, -0.8, 0.0]}),
    ),
    Case(
        "Interpolation(one point)",
        maker(schedules.Interpolation, steps=[3], values=[0.2]),
        lambda t: 0.2,
        bad=({"steps": [], "values": []},),
    ),
    Case(
        "Interpolation(exponential)",
        maker(schedules.Interpolation, steps=[0, 40], values=[0.8, 0.1], shape=shapes.exponential),
        lambda t: through(t, [(0, 0.8), (40, 0.1)], to_a_tenth),
    ),
    Case(
        "Interpolation(a shape of one's own)",
        maker(schedules.Interpolation, steps=[0, 40], values=[0.8, 0.1], shape=square),
        lambda t: 0.8 - 0.7 * (min(t, 40) / 40) ** 2,
    ),
    Case(
        "WarmupStableDecay",
        maker(schedules.WarmupStableDecay, peak_learning_rate=0.8, warmup_steps=9, stable_steps=40, decay_steps=20),
        lambda t: 0.8 * t / 9 if t < 9 else 0.8 * one_minus_sqrt(min(max(t - 49, 0) / 20, 1)),
        bad=(
            {"peak_learning_rate": -1},
            {"warmup_steps": -1},
            {"stable_steps": -1},
            {"decay_steps": 0},
            {"end_learning_rate": -1},
        ),
    ),
    Case(
        "WarmupStableDecay(linear, without warm-up)",
        maker(
            schedules.WarmupStableDecay,
            peak_learning_rate=0.8,
            warmup_steps=0,
            stable_steps=40,
            decay_steps=20,
            end_learning_rate=0.1,
            shape=shapes.linear,
        ),
        lambda t: np.interp(t, [40, 60], [0.8, 0.1]),
    ),
    Case(
        "WarmupStableDecay(exponential, MiniCPM)",
        maker(
            schedules.WarmupStableDecay,
            peak_learning_rate=0.8,
            warmup_steps=5,
            stable_steps=0,
            decay_steps=np.log2(10) * 12,
            end_learning_rate=0.08,
            shape=shapes.exponential,
        ),
        lambda t: 0.8 * t / 5 if t < 5 else max(0.8 * 0.5 ** ((t - 5) / 12), 0.08),
    ),
    Case(
        "warmup(CosineRestarts)",
        lambda: schedules.warmup(schedules.CosineRestarts(**RESTARTS), 9),
        lambda t: 0.8 * t / 9 if t < 9 else restarts(t - 9, 0.8, 10, 2, 0.5, 0.1),
        repeats=True,
    ),
    Case(
        "scale(number)",
        lambda: schedules.scale(schedules.StepDecay(0.4, 0.5, 7), 2),
        lambda t: 0.8 * 0.5 ** (t // 7),
    ),
    Case(
        "scale(schedule)",
        lambda: schedules.scale(K.ExponentialDecay(0.8, 7, 0.5), schedules.warmup(1.0, 9)),
        lambda t: 0.8 * 0.5 ** (t / 7) * min(t, 9) / 9,
    ),
]
