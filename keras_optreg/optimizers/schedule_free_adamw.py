"""Schedule-Free AdamW. Defazio et al. 2024, Algorithm 1, arXiv:2405.15682."""

from typing import Any, Unpack

import keras
from keras import ops

from keras_optreg.bounds import COUNT, FRACTION, NON_NEGATIVE, POSITIVE_FRACTION
from keras_optreg.optimizers.moments import moving_average
from keras_optreg.optimizers.rule_optimizer import WEIGHT, ZEROS, Step
from keras_optreg.optimizers.schedule_free import ScheduleFree, rate, schedule_free
from keras_optreg.typing import BaseOptions, Tensor


def schedule_free_adamw(
    g: Tensor,
    w: Tensor,
    state: dict[str, Tensor],
    *,
    lr: Tensor,
    t: Tensor,
    wd: Tensor,
    shared: dict[str, Tensor],
    beta_1: float,
    beta_2: float,
    epsilon: float,
    warmup_steps: int,
) -> Step:
    """Algorithm 1 of the paper with the authors' correction of v; `w` is y."""
    v = moving_average(state["v"], ops.square(g), beta_2)
    direction = g / (ops.sqrt(v / (1 - ops.power(beta_2, t))) + epsilon) + wd * w
    return schedule_free(direction, w, {**state, "v": v}, rate(lr, t, warmup_steps), shared["c"], beta_1)


@keras.saving.register_keras_serializable("keras_optreg")
class ScheduleFreeAdamW(ScheduleFree):
    """Adam whose weights are averaged as it goes, which takes the place of momentum and of a decaying learning rate.

    When to use it: the length of the run is not known beforehand, or no schedule shall be tuned; it won the
    self-tuning track of AlgoPerf 2024. Evaluate at the average: add `callbacks.EvaluateAtAverage()` to fit.

    Equations (γ: the rate, warmed up; the model holds y while training, x is the result):

        y = (1 − β₁)·z + β₁·x
        v ← β₂·v + (1 − β₂)·g(y)²,            v̂ = v/(1 − β₂ᵗ)
        z ← z − γ·(g(y)/(√v̂ + ε) + λ·y)
        x ← (1 − c)·x + c·z,        c = γ²_max / Σ γ²_max

    Args:
        learning_rate: number >= 0, schedule or callable. 0.0025 as in the authors' code; 1 to 10 times what AdamW
            takes with a schedule. The average weighs a step by the square of the largest rate so far.
        beta_1: β₁ in (0, 1]: how near y is to the average. 0.9 as in the paper; 0.95 or 0.98 for long runs.
        beta_2: β₂ in [0, 1). 0.999 as in the paper.
        epsilon: ε >= 0. 1e-8 as in the paper.
        warmup_steps: the rate grows in a straight line over so many steps. 0.
        **options: what all optimizers take, see `SGD`. `weight_decay` is λ, at y as in the authors' code; none by
            default. No proximal penalties, constraints or `use_ema`: the weights follow from z.

    Raises:
        ValueError: for a number outside its range, an unknown argument or one that is refused.

    Example:
        >>> import keras
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = ScheduleFreeAdamW(0.1)
        >>> for _ in range(3):
        ...     optimizer.apply([2 * w], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.7968, -1.7933]
        >>> optimizer.to_average()
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.8061, -1.8029]

    Differs: the authors' code corrects the bias of v in its square root; the paper multiplies the rate by √(1 − β₂ᵗ)
    in its place, which differs by the place of ε and by the weights of the average. This is their code.
    `keras.optimizers.ScheduleFreeAdamW` is wrong on TensorFlow: `tests/test_averaging.py` shows it.
    """

    slots = {"v": ZEROS, "z": WEIGHT}
    bounds = {
        "beta_1": POSITIVE_FRACTION,
        "beta_2": FRACTION,
        "epsilon": NON_NEGATIVE,
        "warmup_steps": COUNT,
    }
    rule = staticmethod(schedule_free_adamw)

    def __init__(
        self,
        learning_rate: Any = 0.0025,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        warmup_steps: int = 0,
        **options: Unpack[BaseOptions],
    ):
        own = {"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon, "warmup_steps": warmup_steps}
        super().__init__(learning_rate, own=own, **options)
