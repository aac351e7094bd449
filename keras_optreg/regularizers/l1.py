"""L1: the sum of absolute values."""

from typing import Any, Self

import keras
from keras import ops

from keras_optreg.regularizers.penalty_regularizer import PenaltyRegularizer
from keras_optreg.regularizers.scales import per_example_factor, strength_of


@keras.saving.register_keras_serializable("keras_optreg")
class L1(PenaltyRegularizer):
    r"""Penalises the sum of absolute values: unimportant weights go to zero.

    Use it to select inputs or to prune. In the loss (`attach`, `kernel_regularizer=`) weights come close to zero but
    never reach it; given to an optimizer of this package, `Adam(1e-3, penalties=L1(1e-5))`, it acts through its
    proximal map and leaves exact zeros. Not with `use_ema=True`: the average that overwrites the weights at the end of
    `fit`, and every `ema_overwrite_frequency` steps, is zero only where a weight was zero all along.

        Ω(w)       = λ Σ |w|                             (Keras's scale)
        ∇Ω(w)      = λ sign(w)
        prox(w, s) = sign(w) max(|w| − s λ, 0)           (soft thresholding)

    `L1.halved(λ)` is ½ λ Σ|w| and `L1.per_example(λ, m)` is λ/(2m) Σ|w|, the scales of other textbooks.

    With a mean squared error, `L1(2α)` is scikit-learn's `Lasso(alpha=α)`, which halves the error.

    Args:
        strength: λ, a finite number >= 0. Defaults to 0.01, Keras's default.
        l1: the same number under Keras's name, so that this class replaces `keras.regularizers.L1`.

    Raises:
        ValueError: when the strength is negative, infinite or no number.
        TypeError: when both names are used.

    Example:
        >>> w = keras.ops.array([1.0, -2.0, 0.25])
        >>> float(L1(0.5)(w))
        1.625
        >>> keras.ops.convert_to_numpy(L1(0.5).proximal(w, 1.0)).tolist()
        [0.5, -1.5, 0.0]

    Reference:
        R. Tibshirani, "Regression shrinkage and selection via the lasso", JRSS B 58, 1996. Proximal map: N. Parikh,
        S. Boyd, "Proximal algorithms", 2014, section 6.5.2.
    """

    aliases = {"l1": "strength"}
    is_one_pass = True

    def __init__(self, strength: float | None = None, *, l1: float | None = None):
        super().__init__(strength=strength_of("L1", strength, "l1", l1))

    @classmethod
    def halved(cls, strength: float) -> Self:
        """½ λ Σ|w|."""
        return cls(strength).scaled(1 / 2)

    @classmethod
    def per_example(cls, strength: float, num_examples: int) -> Self:
        """λ/(2m) Σ|w| for `num_examples` = m training examples."""
        return cls(strength).scaled(per_example_factor("L1", num_examples))

    def penalty(self, x: Any) -> Any:
        return self.strength * ops.sum(ops.abs(x))

    def gradient(self, w: Any) -> Any:
        return self.strength * ops.sign(w)

    def proximal(self, w: Any, step: Any) -> Any:
        return ops.sign(w) * ops.maximum(ops.abs(w) - self.strength * step, 0)
