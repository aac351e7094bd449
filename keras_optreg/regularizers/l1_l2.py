"""L1L2: both sums together, the elastic net."""

from typing import Any, Self

import keras
from keras import ops

from keras_optreg.regularizers.one_pass import sum_of_squares
from keras_optreg.regularizers.penalty_regularizer import PenaltyRegularizer
from keras_optreg.regularizers.scales import per_example_factor


@keras.saving.register_keras_serializable("keras_optreg")
class L1L2(PenaltyRegularizer):
    r"""Penalises absolute values and squares together (the elastic net): zeros, steadier among correlated inputs.

    Use it where L1 alone picks one of several correlated inputs at random. It is also the way to give one weight both
    penalties in an optimizer's `penalties=`, which takes one proximal map a weight.

        Ω(w)       = λ₁ Σ |w| + λ₂ Σ w²                  (Keras's scale)
        ∇Ω(w)      = λ₁ sign(w) + 2 λ₂ w
        prox(w, s) = sign(w) max(|w| − s λ₁, 0) / (1 + 2 s λ₂)

    `L1L2.halved(λ₁, λ₂)` takes half of both, `L1L2.per_example(λ₁, λ₂, m)` both divided by 2m.

    With a mean squared error, `L1L2(2αρ, α(1 − ρ))` is scikit-learn's `ElasticNet(alpha=α, l1_ratio=ρ)`.

    Args:
        l1: λ₁, a finite number >= 0. Defaults to 0.0.
        l2: λ₂, a finite number >= 0. Defaults to 0.0.

    Raises:
        ValueError: when a strength is negative, infinite or no number.

    Example:
        >>> float(L1L2(0.5, 0.25)(keras.ops.array([1.0, -2.0])))
        2.75

    Reference:
        H. Zou, T. Hastie, "Regularization and variable selection via the elastic net", JRSS B 67, 2005.
    """

    def __init__(self, l1: float | None = 0.0, l2: float | None = 0.0):
        super().__init__(l1=0.0 if l1 is None else l1, l2=0.0 if l2 is None else l2)

    @property
    def is_quadratic(self) -> bool:
        """Whether its L2 part is there."""
        return self.numbers["l2"] > 0

    @classmethod
    def halved(cls, l1: float, l2: float) -> Self:
        """½ λ₁ Σ|w| + ½ λ₂ Σw²."""
        return cls(l1, l2).scaled(1 / 2)

    @classmethod
    def per_example(cls, l1: float, l2: float, num_examples: int) -> Self:
        """(λ₁ Σ|w| + λ₂ Σw²)/(2m) for `num_examples` = m training examples."""
        return cls(l1, l2).scaled(per_example_factor("L1L2", num_examples))

    def penalty(self, x: Any) -> Any:
        return self.l1 * ops.sum(ops.abs(x)) + self.l2 * sum_of_squares(x)

    def gradient(self, w: Any) -> Any:
        return self.l1 * ops.sign(w) + 2 * self.l2 * w

    def proximal(self, w: Any, step: Any) -> Any:
        return ops.sign(w) * ops.maximum(ops.abs(w) - self.l1 * step, 0) / (1 + 2 * self.l2 * step)
