"""Nadam: Adam with Nesterov's momentum and a momentum schedule. Dozat 2016, Algorithm 2, ICLR workshop."""

from typing import Any, Unpack

import keras
from keras import ops

from keras_optreg.bounds import FRACTION, NON_NEGATIVE
from keras_optreg.optimizers.moments import moving_average
from keras_optreg.optimizers.rule_optimizer import ZEROS, RuleOptimizer, Step
from keras_optreg.typing import BaseOptions, Tensor


def scheduled_momentum(t: Tensor, beta_1: float, momentum_decay: float) -> Tensor:
    """μ_t = β₁·(1 − ½·0.96^(ψt)): from half of β₁ up to β₁."""
    return beta_1 * (1 - 0.5 * ops.power(0.96, momentum_decay * t))


def momentum_product(
    shared: dict[str, Tensor],
    sums: dict[str, Tensor],
    *,
    lr: Tensor,
    t: Tensor,
    beta_1: float,
    momentum_decay: float,
    **_: Any,
) -> dict[str, Tensor]:
    """Π μ_i up to step t, one number for all weights."""
    return {"product": shared["product"] * scheduled_momentum(t, beta_1, momentum_decay)}


def nadam(
    g: Tensor,
    w: Tensor,
    state: dict[str, Tensor],
    *,
    lr: Tensor,
    t: Tensor,
    shared: dict[str, Tensor],
    beta_1: float,
    beta_2: float,
    epsilon: float,
    momentum_decay: float,
) -> Step:
    """Algorithm 2 of Dozat 2016 as Keras and PyTorch have it: μ acts in m̂, and m averages with β₁."""
    mu, mu_next = (scheduled_momentum(step, beta_1, momentum_decay) for step in (t, t + 1))
    product = ops.cast(shared["product"], w.dtype)
    m = moving_average(state["m"], g, beta_1)
    v = moving_average(state["v"], ops.square(g), beta_2)
    m_hat = mu_next * m / (1 - product * mu_next) + (1 - mu) * g / (1 - product)
    c = lr / (ops.sqrt(v / (1 - ops.power(beta_2, t))) + epsilon)
    return Step(-c * m_hat, {"m": m, "v": v}, metric=c, reach=lr)


@keras.saving.register_keras_serializable("keras_optreg")
class Nadam(RuleOptimizer):
    """Adam that looks ahead along its momentum, as Nesterov's method does.

    When to use it: where Adam is used; it often gets there a little sooner.

    Equations (μ_t = β₁(1 − ½·0.96^(ψt)), ψ `momentum_decay`):

        m ← β₁·m + (1 − β₁)·g
        v ← β₂·v + (1 − β₂)·g²
        m̂ = μ_{t+1}·m / (1 − Π_{i≤t+1} μ_i) + (1 − μ_t)·g / (1 − Π_{i≤t} μ_i)
        w ← w − α·m̂ / (√(v / (1 − β₂ᵗ)) + ε)

    Args:
        learning_rate: number >= 0, schedule or callable. 0.001 as in Keras; PyTorch has 0.002.
        beta_1: β₁ in [0, 1).
        beta_2: β₂ in [0, 1).
        epsilon: ε >= 0.
        momentum_decay: ψ >= 0, how fast the momentum warms up from β₁/2 to β₁. 1 as in Keras, which is there after
            some 100 steps; 0.004 as in the paper and in PyTorch, which takes some 25,000.
        **options: what all optimizers take, see `SGD`.

    Raises:
        ValueError: for a number outside its range or an unknown argument.

    Example:
        >>> import keras
        >>> w = keras.Variable([1.0, -2.0])
        >>> Nadam(0.1).apply([2 * w], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.8937, -1.8937]

    Differs: equal to Keras by default, and to PyTorch's `NAdam` with `momentum_decay=0.004`. Both average with β₁ and
    apply the schedule μ in m̂ alone; the paper averages with μ_t. The product is kept in float32.
    """

    slots = {"m": ZEROS, "v": ZEROS}
    shared_slots = {"product": 1.0}
    bounds = {"beta_1": FRACTION, "beta_2": FRACTION, "epsilon": NON_NEGATIVE, "momentum_decay": NON_NEGATIVE}
    rule = staticmethod(nadam)
    share = staticmethod(momentum_product)
    has_metric = True

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        *,  # Keras's class has its own next positional argument
        momentum_decay: float = 1.0,
        **options: Unpack[BaseOptions],
    ):
        own = {"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon, "momentum_decay": momentum_decay}
        super().__init__(learning_rate, own=own, **options)
