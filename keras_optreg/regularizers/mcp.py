"""MCP: the minimax concave penalty."""

from typing import Any

import keras
from keras import ops

from keras_optreg.bounds import POSITIVE
from keras_optreg.regularizers.penalty_regularizer import PenaltyRegularizer
from keras_optreg.regularizers.piecewise import least


@keras.saving.register_keras_serializable("keras_optreg")
class MCP(PenaltyRegularizer):
    r"""Penalises small weights as L1 does and large ones not at all: zeros, without shrinking what stays.

    Use it where L1 finds the right weights but makes them too small. It is not convex: the result depends on the start,
    so begin from weights trained without it, or raise its strength slowly. As γ grows it becomes `L1`.

        Ω(w)       = Σ  λ|w| − w²/(2γ)   where |w| <= γλ,   otherwise γλ²/2
        ∇Ω(w)      = sign(w) max(λ − |w|/γ, 0)
        prox(w, s) = the least of ½(z − w)² + s Ω(z) among z = 0, (|w| − sλ)/(1 − s/γ) and |w|, with the sign of w,
                     each brought into the piece of Ω it belongs to

    For s < γ the map is continuous ("firm thresholding"), for larger steps it keeps or kills (at |w| = λ√(sγ)).

    Args:
        strength: λ, the slope at 0, a finite number >= 0. Doubling it does not double the penalty: γλ is where it ends.
        gamma: γ, how far the penalty reaches in units of λ, a number > 0. Defaults to 3.0, the value of the paper's
            examples. Above the step of the optimizer (its learning rate, for SGD) the map is continuous.

    Raises:
        ValueError: for a number outside its range.

    Example:
        >>> w = keras.ops.array([0.5, 2.0, -8.0])
        >>> round(float(MCP(1.0, gamma=3.0)(w)), 4)
        3.2917
        >>> keras.ops.convert_to_numpy(MCP(1.0, gamma=3.0).proximal(w, 1.0)).tolist()
        [0.0, 1.5, -8.0]

    Reference:
        C.-H. Zhang, "Nearly unbiased variable selection under minimax concave penalty", Annals of Statistics 38, 2010.
    """

    bounds = {"gamma": POSITIVE}
    arguments = ("gamma",)

    def __init__(self, strength: float = 0.01, gamma: float = 3.0):
        super().__init__(strength=strength)
        self.gamma = gamma

    def penalty(self, x: Any) -> Any:
        return ops.sum(self._of_size(ops.abs(x)))

    def _of_size(self, a: Any) -> Any:
        inside = ops.minimum(a, self.gamma * self.strength)
        return self.strength * inside - ops.square(inside) / (2 * self.gamma)

    def gradient(self, w: Any) -> Any:
        return ops.sign(w) * ops.maximum(self.strength - ops.abs(w) / self.gamma, 0)

    def proximal(self, w: Any, step: Any) -> Any:
        a, end, convexity = ops.abs(w), self.gamma * self.strength, 1 - step / self.gamma
        # Where the piece is concave its least value is at one of its ends, 0 and `end`.
        between = (a - step * self.strength) / ops.where(convexity > 0, convexity, 1.0)
        between = ops.where(convexity > 0, ops.clip(between, 0, end), 0.0)
        return ops.sign(w) * least([between, ops.zeros_like(a), ops.maximum(a, end)], a, step, self._of_size)
