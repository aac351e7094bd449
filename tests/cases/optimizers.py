"""One row an optimizer: how to make it, a float64 reference written from its paper, and its peers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_optreg import optimizers


@dataclass(frozen=True)
class Case:
    """A row.

    Attributes:
        name: of the test.
        make: the optimizer, given a learning rate and options.
        reference: `(g, w, s, t, lr) -> w` in float64; `s` is a dict it keeps its state in.
        keras_peer: the Keras class and arguments which must agree, or None where Keras has none.
        torch_peer: name of the class in torch.optim, and arguments, where its convention is the same.
        bad: (argument, just outside, just inside) for each number.
        lasso: learning rate and steps which solve the Lasso problem of `test_optimizers`.
    """

    name: str
    make: Callable[..., optimizers.RuleOptimizer]
    reference: Callable[..., Any]
    keras_peer: Callable[..., Any] | None = None
    torch_peer: tuple[str, dict[str, Any]] | None = None
    bad: tuple[tuple[str, float, float], ...] = ()
    lasso: tuple[float, int] = (0.05, 1500)

    def __str__(self) -> str:
        return self.name


def sgd(g, w, s, t, lr, momentum=0.0, nesterov=False, dampening=0.0):
    # Sutskever et al. 2013, equations 1-4, for a gradient scaled by 1 - dampening.
    g = (1 - dampening) * g
    v_old = s.get("v", 0.0)
    s["v"] = momentum * v_old - lr * g
    # Nesterov, in the variables that the network holds: w already stands at the look-ahead point.
    return w + (momentum * s["v"] - lr * g if nesterov else s["v"])


def rmsprop(g, w, s, t, lr, rho=0.9, momentum=0.0, epsilon=1e-7, centered=False):
    s["ms"] = rho * s.get("ms", 0.0) + (1 - rho) * g * g
    s["mg"] = rho * s.get("mg", 0.0) + (1 - rho) * g
    variance = s["ms"] - s["mg"] ** 2 if centered else s["ms"]
    s["u"] = momentum * s.get("u", 0.0) + lr * g / np.sqrt(variance + epsilon)
    return w - s["u"]


def adagrad(g, w, s, t, lr, start=0.1, epsilon=1e-7):
    s["sum"] = s.get("sum", start) + g * g
    return w - lr * g / np.sqrt(s["sum"] + epsilon)


def adam(g, w, s, t, lr, b1=0.9, b2=0.999, epsilon=1e-7, amsgrad=False, decay=0.0):
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * g * g
    v = s["v"]
    if amsgrad:
        v = s["v_max"] = np.maximum(s.get("v_max", 0.0), v)
    rate = lr * np.sqrt(1 - b2**t) / (1 - b1**t)
    return w - lr * decay * w - rate * s["m"] / (np.sqrt(v) + epsilon)


def adamax(g, w, s, t, lr, b1=0.9, b2=0.999, epsilon=1e-7):
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    s["u"] = np.maximum(b2 * s.get("u", 0.0), np.abs(g))
    return w - lr / (1 - b1**t) * s["m"] / (s["u"] + epsilon)


def nadam(g, w, s, t, lr, b1=0.9, b2=0.999, epsilon=1e-7, psi=1.0):
    mu = [b1 * (1 - 0.5 * 0.96 ** (psi * i)) for i in range(1, t + 2)]
    s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * g * g
    m_hat = mu[t] * s["m"] / (1 - np.prod(mu)) + (1 - mu[t - 1]) * g / (1 - np.prod(mu[:t]))
    return w - lr * m_hat / (np.sqrt(s["v"] / (1 - b2**t)) + epsilon)


_fraction = (("beta_1", 1.0, 0.999), ("beta_1", -1e-9, 0.0), ("beta_2", 1.0, 0.9999), ("epsilon", -1e-9, 0.0))
_K = keras.optimizers

CASES = [
    Case(
        "SGD", optimizers.SGD, sgd, _K.SGD, ("SGD", {}), (("momentum", 1.01, 1.0), ("dampening", 1.0, 0.99)), (0.1, 600)
    ),
    Case(
        "SGD-momentum",
        partial(optimizers.SGD, momentum=0.9),
        partial(sgd, momentum=0.9),
        partial(_K.SGD, momentum=0.9),
        ("SGD", {"momentum": 0.9}),
        lasso=(0.02, 600),
    ),
    Case(
        "SGD-nesterov",
        partial(optimizers.SGD, momentum=0.9, nesterov=True),
        partial(sgd, momentum=0.9, nesterov=True),
        partial(_K.SGD, momentum=0.9, nesterov=True),
        ("SGD", {"momentum": 0.9, "nesterov": True}),
        lasso=(0.02, 600),
    ),
    Case(
        "SGD-dampened",
        partial(optimizers.SGD, momentum=0.9, dampening=0.9),
        partial(sgd, momentum=0.9, dampening=0.9),
        lasso=(0.1, 900),
    ),
    Case(
        "RMSprop",
        optimizers.RMSprop,
        rmsprop,
        _K.RMSprop,
        None,
        (("rho", 1.01, 1.0), ("epsilon", -1.0, 0.0)),
        (0.005, 2500),
    ),
    Case(
        "RMSprop-momentum",
        partial(optimizers.RMSprop, momentum=0.5),
        partial(rmsprop, momentum=0.5),
        partial(_K.RMSprop, momentum=0.5),
        bad=(("momentum", 1.01, 1.0),),
    ),
    Case(
        "RMSprop-centered",
        partial(optimizers.RMSprop, momentum=0.5, centered=True, epsilon=1e-2),
        partial(rmsprop, momentum=0.5, centered=True, epsilon=1e-2),
        partial(_K.RMSprop, momentum=0.5, centered=True, epsilon=1e-2),
        lasso=(0.003, 2500),
    ),
    Case(
        "Adagrad",
        optimizers.Adagrad,
        adagrad,
        _K.Adagrad,
        None,
        (("initial_accumulator_value", -1e-9, 0.0), ("epsilon", -1e-9, 0.0)),
        lasso=(0.3, 2500),
    ),
    Case("Adam", optimizers.Adam, adam, _K.Adam, ("Adam", {"eps": 1e-12}), _fraction),
    Case(
        "Adam-amsgrad",
        partial(optimizers.Adam, amsgrad=True),
        partial(adam, amsgrad=True),
        partial(_K.Adam, amsgrad=True),
    ),
    Case(
        "AdamW",
        optimizers.AdamW,
        partial(adam, decay=0.004),
        _K.AdamW,
        ("AdamW", {"eps": 1e-12, "weight_decay": 0.004}),
        _fraction,
    ),
    Case(
        "AMSGrad",
        optimizers.AMSGrad,
        partial(adam, amsgrad=True),
        partial(_K.Adam, amsgrad=True),
        ("Adam", {"eps": 1e-12, "amsgrad": True}),
        _fraction,
    ),
    Case("Adamax", optimizers.Adamax, adamax, _K.Adamax, None, _fraction),
    Case("Nadam", optimizers.Nadam, nadam, _K.Nadam, None, (*_fraction, ("momentum_decay", -1e-9, 0.0))),
    Case(
        "Nadam-slow",
        partial(optimizers.Nadam, momentum_decay=0.004),
        partial(nadam, psi=0.004),
        torch_peer=("NAdam", {"eps": 1e-12}),
    ),
]
