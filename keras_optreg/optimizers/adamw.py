"""AdamW: Adam with decoupled weight decay. Loshchilov & Hutter 2019, Algorithm 2, arXiv:1711.05101."""

from typing import Any, Unpack

import keras

from keras_optreg.bounds import FRACTION, NON_NEGATIVE
from keras_optreg.optimizers.moments import adam
from keras_optreg.optimizers.rule_optimizer import ZEROS, RuleOptimizer
from keras_optreg.typing import EngineOptions


@keras.saving.register_keras_serializable("keras_optreg")
class AdamW(RuleOptimizer):
    """Adam whose weights also shrink by a constant fraction a step, apart from the gradient.

    When to use it: transformers, and wherever Adam would be used with an L2 penalty: Adam divides the penalty's
    gradient by √v, so that weights with large gradients hardly shrink; the decay here is the same for all.

    Equations (λ `weight_decay`, the rest as in `Adam`):

        w ← w − α·λ·w
        w ← w − α·√(1 − β₂ᵗ)/(1 − β₁ᵗ) · m / (√v + ε)

    Args:
        learning_rate: number >= 0, schedule or callable.
        weight_decay: λ >= 0, or a schedule of the step. 0.004 as in Keras; the paper and PyTorch recommend 0.01.
        beta_1: β₁ in [0, 1).
        beta_2: β₂ in [0, 1).
        epsilon: ε >= 0.
        amsgrad: divide by the largest v so far.
        **options: what all optimizers take, see `SGD`. `weight_decay_on=select.kernels()` spares biases and norms.

    Raises:
        ValueError: for a number outside its range, an unknown argument, or `weight_decay=None`.

    Example:
        >>> import keras
        >>> w = keras.Variable([1.0, -2.0])
        >>> AdamW(0.1, weight_decay=0.5).apply([2 * w], [w])
        >>> [round(float(x), 4) for x in keras.ops.convert_to_numpy(w)]
        [0.85, -1.8]

    Differs: the decay is multiplied by the learning rate, as in Keras and PyTorch; the paper scales it by the
    schedule's multiplier alone.
    """

    bounds = {"beta_1": FRACTION, "beta_2": FRACTION, "epsilon": NON_NEGATIVE}
    rule = staticmethod(adam)
    has_metric = True

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: Any = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **options: Unpack[EngineOptions],
    ):
        if weight_decay is None:
            raise ValueError(
                "The `weight_decay` of AdamW must be a number or a schedule, for the decay is what it is for. "
                "Received: weight_decay=None. Use Adam, or weight_decay=0."
            )
        own = {"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon, "amsgrad": amsgrad}
        super().__init__(learning_rate, own=own, weight_decay=weight_decay, **options)

    @property
    def slots(self) -> dict[str, float]:
        """Momentum m and mean square v; with `amsgrad` the largest v."""
        return {"m": ZEROS, "v": ZEROS} | ({"v_max": ZEROS} if self.amsgrad else {})
