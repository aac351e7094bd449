"""One row a penalty: how to make it, and its formula and gradient in float64 NumPy, written from the textbook."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_optreg import regularizers


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[], Any]
    value: Callable[[np.ndarray], float]
    gradient: Callable[[np.ndarray], np.ndarray]
    keras_equal: Callable[[], Any] | None = None

    def __str__(self) -> str:
        return self.name


def l1(strength: float) -> dict[str, Any]:
    return {"value": lambda w: strength * np.abs(w).sum(), "gradient": lambda w: strength * np.sign(w)}


def l2(strength: float) -> dict[str, Any]:
    return {"value": lambda w: strength * (w**2).sum(), "gradient": lambda w: 2 * strength * w}


def both(first: float, second: float) -> dict[str, Any]:
    return {
        "value": lambda w: first * np.abs(w).sum() + second * (w**2).sum(),
        "gradient": lambda w: first * np.sign(w) + 2 * second * w,
    }


K = keras.regularizers
CASES = [
    Case("L1", lambda: regularizers.L1(0.3), **l1(0.3), keras_equal=lambda: K.L1(0.3)),
    Case("L1.halved", lambda: regularizers.L1.halved(0.3), **l1(0.3 / 2), keras_equal=lambda: K.L1(0.15)),
    Case("L1.per_example", lambda: regularizers.L1.per_example(0.3, 5), **l1(0.3 / 10), keras_equal=lambda: K.L1(0.03)),
    Case("L2", lambda: regularizers.L2(0.2), **l2(0.2), keras_equal=lambda: K.L2(0.2)),
    Case("L2.halved", lambda: regularizers.L2.halved(0.2), **l2(0.2 / 2), keras_equal=lambda: K.L2(0.1)),
    Case("L2.per_example", lambda: regularizers.L2.per_example(0.2, 4), **l2(0.2 / 8), keras_equal=lambda: K.L2(0.025)),
    Case("L1L2", lambda: regularizers.L1L2(0.3, 0.2), **both(0.3, 0.2), keras_equal=lambda: K.L1L2(0.3, 0.2)),
    Case(
        "L1L2.halved",
        lambda: regularizers.L1L2.halved(0.3, 0.2),
        **both(0.15, 0.1),
        keras_equal=lambda: K.L1L2(0.15, 0.1),
    ),
    Case(
        "L1L2.per_example",
        lambda: regularizers.L1L2.per_example(0.3, 0.2, 5),
        **both(0.03, 0.02),
        keras_equal=lambda: K.L1L2(0.03, 0.02),
    ),
]
