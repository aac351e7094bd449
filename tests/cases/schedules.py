"""One row a schedule: how to make it, its float64 reference written from the formula, and Keras's peer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_optreg import schedules

K = keras.optimizers.schedules


@dataclass(frozen=True)
class Case:
    """A row.

    Attributes:
        name: of the test.
        make: the schedule.
        reference: `step -> rate`, a Python int to a float64.
        keras_peer: Keras's schedule, which must agree, or None where Keras has none.
        bad: keyword arguments, each of which makes the schedule illegal.
        differs_at: steps at which Keras's peer is known to differ, with the reason in the class's docstring.
    """

    name: str
    make: Callable[..., Any]
    reference: Callable[[int], float]
    keras_peer: Callable[[], Any] | None = None
    bad: tuple[dict[str, Any], ...] = ()
    differs_at: tuple[int, ...] = ()

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
    ),
    Case(
        "CosineRestarts(t_mul=1)",
        maker(schedules.CosineRestarts, initial_learning_rate=0.8, first_decay_steps=7, t_mul=1),
        lambda t: restarts(t, 0.8, 7, 1, 1.0, 0.0),
        lambda: K.CosineDecayRestarts(0.8, 7, 1.0),
    ),
    Case(
        "CosineRestarts(t_mul=3)",
        maker(schedules.CosineRestarts, initial_learning_rate=0.8, first_decay_steps=7, t_mul=3),
        lambda t: restarts(t, 0.8, 7, 3, 1.0, 0.0),
        lambda: K.CosineDecayRestarts(0.8, 7, 3.0),
        differs_at=(7, 28, 91),
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
]
