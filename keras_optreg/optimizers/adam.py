"""Adam: momentum over the root of the mean square. Kingma & Ba 2015, Algorithm 1, arXiv:1412.6980."""

from typing import Any, Unpack

import keras

from keras_optreg.bounds import FRACTION, NON_NEGATIVE
from keras_optreg.optimizers.moments import adam
from keras_optreg.optimizers.rule_optimizer import ZEROS, RuleOptimizer
from keras_optreg.typing import BaseOptions


@keras.saving.register_keras_serializable("keras_optreg")
class Adam(RuleOptimizer):
    """Momentum divided by the root of the running mean square, both corrected for their start at zero.

    When to use it: the default for most networks. With weight decay, `AdamW` has a non-zero one by default.

    Equations (β₁ `beta_1`, β₂ `beta_2`, α learning rate, t = 1, 2, …):

        m ← β₁·m + (1 − β₁)·g
        v ← β₂·v + (1 − β₂)·g²
        w ← w − α·√(1 − β₂ᵗ)/(1 − β₁ᵗ) · m / (√v + ε)

    Args:
        learning_rate: number >= 0, schedule or callable. A rate of 1 moves a weight by 1 at the
            first step, later by less where gradients change sign, and whatever the gradients are by no more than
            (1 − β₁)/√((1 − β₂)(1 − β₁²/β₂)), about 7.
        beta_1: β₁ in [0, 1). 0.9 as in the paper.
        beta_2: β₂ in [0, 1). 0.999 as in the paper.
        epsilon: ε >= 0, the paper's "ε hat" of section 2. 1e-7 as in Keras; the paper has 1e-8.
        amsgrad: divide by the largest v so far (Reddi et al. 2018), as the class `AMSGrad` does.
        **options: what all optimizers take, see `SGD`.

    Raises:
        ValueError: for a number outside its range or an unknown argument.

    Example:
        >>> import keras
        >>> w = keras.Variable([1.0, -2.0])
        >>> Adam(0.1).apply([2 * w], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.9, -1.9]

    Differs: equal to Keras. PyTorch and the paper's Algorithm 1 add ε to √v̂, so their ε is ours over √(1 − β₂ᵗ).
    """

    bounds = {"beta_1": FRACTION, "beta_2": FRACTION, "epsilon": NON_NEGATIVE}
    rule = staticmethod(adam)
    has_metric = True

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **options: Unpack[BaseOptions],
    ):
        own = {"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon, "amsgrad": amsgrad}
        super().__init__(learning_rate, own=own, **options)

    @property
    def slots(self) -> dict[str, float]:
        """Momentum m and mean square v; with `amsgrad` the largest v."""
        return {"m": ZEROS, "v": ZEROS} | ({"v_max": ZEROS} if self.amsgrad else {})
