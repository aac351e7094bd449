"""Schedule-Free SGD. Defazio et al. 2024, "The road less scheduled", arXiv:2405.15682."""

from typing import Any, Unpack

import keras

from keras_optreg.bounds import COUNT, POSITIVE_FRACTION
from keras_optreg.optimizers.rule_optimizer import WEIGHT, Step
from keras_optreg.optimizers.schedule_free import ScheduleFree, rate, schedule_free
from keras_optreg.typing import BaseOptions, Tensor


def schedule_free_sgd(
    g: Tensor,
    w: Tensor,
    state: dict[str, Tensor],
    *,
    lr: Tensor,
    t: Tensor,
    wd: Tensor,
    shared: dict[str, Tensor],
    beta_1: float,
    warmup_steps: int,
) -> Step:
    """Equations 3 to 5 of the paper; `w` is y."""
    return schedule_free(g + wd * w, w, state, rate(lr, t, warmup_steps), shared["c"], beta_1)


@keras.saving.register_keras_serializable("keras_optreg")
class ScheduleFreeSGD(ScheduleFree):
    """SGD whose weights are averaged as it goes, which takes the place of a decaying learning rate.

    When to use it: the length of the run is not known beforehand, or no schedule shall be tuned. Evaluate at the
    average: add `callbacks.EvaluateAtAverage()` to fit.

    Equations (γ: the rate, warmed up; the model holds y while training, x is the result):

        y = (1 − β)·z + β·x
        z ← z − γ·g(y)
        x ← (1 − c)·x + c·z,        c = γ²_max / Σ γ²_max

    Args:
        learning_rate: number >= 0, schedule or callable. 1 as in the authors' code; 10 to 50 times what SGD takes with
            a schedule. The average weighs a step by the square of the largest rate so far.
        beta_1: β in (0, 1]: how near y is to the average. 0.9 as in the paper.
        warmup_steps: the rate grows in a straight line over so many steps. 0.
        **options: what all optimizers take, see `SGD`. `weight_decay` λ adds λ·y to the gradient, as in the authors'
            code. No proximal penalties, constraints or `use_ema`: the weights follow from z.

    Raises:
        ValueError: for a number outside its range, an unknown argument or one that is refused.

    Example:
        >>> import keras
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = ScheduleFreeSGD(0.1)
        >>> for _ in range(3):
        ...     optimizer.apply([2 * w], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.631, -1.2621]
        >>> optimizer.to_average()
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.6459, -1.2917]

    Differs: equal to the authors' code with its defaults `r=0` and `weight_lr_power=2`.
    """

    slots = {"z": WEIGHT}
    bounds = {"beta_1": POSITIVE_FRACTION, "warmup_steps": COUNT}
    rule = staticmethod(schedule_free_sgd)

    def __init__(
        self,
        learning_rate: Any = 1.0,
        beta_1: float = 0.9,
        warmup_steps: int = 0,
        **options: Unpack[BaseOptions],
    ):
        super().__init__(learning_rate, own={"beta_1": beta_1, "warmup_steps": warmup_steps}, **options)
