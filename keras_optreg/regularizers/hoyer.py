"""Hoyer: how far a weight is from being sparse, whatever its scale."""

from typing import Any

import keras
from keras import ops

from keras_optreg.regularizers.one_pass import sum_of_squares
from keras_optreg.regularizers.penalty_regularizer import PenaltyRegularizer


@keras.saving.register_keras_serializable("keras_optreg")
class Hoyer(PenaltyRegularizer):
    r"""Penalises the number of weights in use, smoothly: small ones go down, large ones stay where they are.

    Use it to prune without shrinking. The penalty does not change when all weights are scaled, and lies between λ (one
    weight in use) and nλ (all n equally large). It is not convex and has no proximal map in closed form: weights come
    close to zero, and a threshold or `callbacks.MagnitudePruning` sets them to zero at the end.

        Ω(w)  = λ S₁²/S₂,   S₁ = Σ|w|, S₂ = Σw²
        ∇Ω(w) = 2λ (S₁/S₂) (sign(w) − (S₁/S₂) w)

    A weight that is all zeros has the penalty 0 and the gradient 0.

    Args:
        strength: λ, a finite number >= 0.

    Raises:
        ValueError: when the strength is negative, infinite or no number.

    Example:
        >>> float(Hoyer(1.0)(keras.ops.array([3.0, 0.0, 0.0, 0.0])))
        1.0
        >>> float(Hoyer(1.0)(keras.ops.array([2.0, 2.0, -2.0, -2.0])))
        4.0

    Reference:
        H. Yang, W. Wen, H. Li, "DeepHoyer: learning sparser neural network with differentiable scale-invariant sparsity
        measures", ICLR 2020, the Hoyer-Square of section 3.
    """

    def __init__(self, strength: float = 0.01):
        super().__init__(strength=strength)

    def penalty(self, x: Any) -> Any:
        total = ops.sum(ops.abs(x))
        return self.strength * total * _ratio(total, x)

    def gradient(self, w: Any) -> Any:
        ratio = _ratio(ops.sum(ops.abs(w)), w)
        return (2 * self.strength * ratio) * (ops.sign(w) - ratio * w)


def _ratio(total: Any, w: Any) -> Any:
    """S₁/S₂, and 0 where all is zero."""
    squares = sum_of_squares(w)
    return ops.where(squares > 0, total / ops.where(squares > 0, squares, 1.0), 0.0)
