"""L2: the sum of squares."""

from typing import Any, Self

import keras

from keras_optreg.regularizers.one_pass import sum_of_squares
from keras_optreg.regularizers.penalty_regularizer import PenaltyRegularizer
from keras_optreg.regularizers.scales import per_example_factor, strength_of


@keras.saving.register_keras_serializable("keras_optreg")
class L2(PenaltyRegularizer):
    r"""Penalises the sum of squares: large weights shrink, all weights stay in use.

    The first penalty to try against overfitting; `attach(model, L2(1e-4))` is the usual start. It is not weight decay:
    under Adam its gradient is divided by √v̂ with the rest, so weights with large gradients shrink less. For the same
    relative shrinkage of all weights use `AdamW(weight_decay=...)`.

        Ω(w)       = λ Σ w²                              (Keras's scale)
        ∇Ω(w)      = 2 λ w
        prox(w, s) = w / (1 + 2 s λ)

    `L2.halved(λ)` is ½ λ Σw², whose gradient is λ w, and `L2.per_example(λ, m)` is λ/(2m) Σw², the scale of many
    courses, where the data loss is a mean over m examples. Under plain SGD `L2.halved(λ)` is a weight decay of λ.

    With a mean squared error over n examples, `L2(α/n)` is scikit-learn's `Ridge(alpha=α)`, which sums the error.

    Args:
        strength: λ, a finite number >= 0. Defaults to 0.01, Keras's default.
        l2: the same number under Keras's name, so that this class replaces `keras.regularizers.L2`.

    Raises:
        ValueError: when the strength is negative, infinite or no number.
        TypeError: when both names are used.

    Example:
        >>> w = keras.ops.array([1.0, -2.0])
        >>> float(L2(0.5)(w)), float(L2.halved(0.5)(w))
        (2.5, 1.25)
        >>> keras.ops.convert_to_numpy(L2(0.5).proximal(w, 1.0)).tolist()
        [0.5, -1.0]

    Reference:
        A. Hoerl, R. Kennard, "Ridge regression", Technometrics 12, 1970; A. Krogh, J. Hertz, "A simple weight decay can
        improve generalization", NIPS 1991. Against weight decay: I. Loshchilov, F. Hutter, arXiv 1711.05101.
    """

    aliases = {"l2": "strength"}
    is_one_pass = True

    def __init__(self, strength: float | None = None, *, l2: float | None = None):
        super().__init__(strength=strength_of("L2", strength, "l2", l2))

    @property
    def is_quadratic(self) -> bool:
        """Whether it shrinks anything at all."""
        return self.numbers["strength"] > 0

    @classmethod
    def halved(cls, strength: float) -> Self:
        """½ λ Σw²."""
        return cls(strength).scaled(1 / 2)

    @classmethod
    def per_example(cls, strength: float, num_examples: int) -> Self:
        """λ/(2m) Σw² for `num_examples` = m training examples."""
        return cls(strength).scaled(per_example_factor("L2", num_examples))

    def penalty(self, x: Any) -> Any:
        return self.strength * sum_of_squares(x)

    def gradient(self, w: Any) -> Any:
        return 2 * self.strength * w

    def proximal(self, w: Any, step: Any) -> Any:
        return w / (1 + 2 * self.strength * step)
