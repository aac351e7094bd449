"""SCAD: the smoothly clipped absolute deviation."""

from typing import Any

import keras
from keras import ops

from keras_optreg.bounds import Interval
from keras_optreg.regularizers.penalty_regularizer import PenaltyRegularizer
from keras_optreg.regularizers.piecewise import least


@keras.saving.register_keras_serializable("keras_optreg")
class SCAD(PenaltyRegularizer):
    r"""Penalises small weights as L1 does, larger ones less and less, and large ones not at all.

    Use it as `MCP`; SCAD keeps the slope of L1 for longer before it lets go. It is not convex: the result depends on
    the start. As a grows it becomes `L1`.

        Ω(w)       = Σ  λ|w|                                  where |w| <= λ
                        (2aλ|w| − w² − λ²)/(2(a − 1))         where λ < |w| <= aλ
                        (a + 1)λ²/2                           where |w| > aλ
        ∇Ω(w)      = sign(w) · λ,  (aλ − |w|)/(a − 1),  0     in these three
        prox(w, s) = the least of ½(z − w)² + s Ω(z) among z = |w| − sλ, ((a − 1)|w| − s aλ)/(a − 1 − s) and |w|, with
                     the sign of w, each brought into the piece of Ω it belongs to

    Args:
        strength: λ, the slope at 0, a finite number >= 0. Doubling it does not double the penalty: aλ is where it ends.
        a: how far the penalty reaches in units of λ, a number > 2. Defaults to 3.7, the paper's.

    Raises:
        ValueError: for a number outside its range.

    Example:
        >>> w = keras.ops.array([0.5, 2.0, -8.0])
        >>> keras.ops.convert_to_numpy(SCAD(1.0).proximal(w, 1.0)).tolist()
        [0.0, 1.0, -8.0]

    Reference:
        J. Fan, R. Li, "Variable selection via nonconcave penalized likelihood and its oracle properties", JASA 96,
        2001, equations 2.7 and 2.8 (the map for s = 1).
    """

    bounds = {"a": Interval(2, float("inf"), low_included=False)}
    arguments = ("a",)

    def __init__(self, strength: float = 0.01, a: float = 3.7):
        super().__init__(strength=strength)
        self.a = a

    def penalty(self, x: Any) -> Any:
        return ops.sum(self._of_size(ops.abs(x)))

    def _of_size(self, size: Any) -> Any:
        # The slope is λ until λ and falls to 0 at aλ, so beyond λ half of the fallen slope is missing on the average.
        within = ops.minimum(size, self.a * self.strength)
        beyond = ops.maximum(within - self.strength, 0)
        return self.strength * within - ops.square(beyond) / (2 * (self.a - 1))

    def gradient(self, w: Any) -> Any:
        slope = (self.a * self.strength - ops.abs(w)) / (self.a - 1)
        return ops.sign(w) * ops.clip(slope, 0, self.strength)

    def proximal(self, w: Any, step: Any) -> Any:
        size, start, end = ops.abs(w), self.strength, self.a * self.strength
        convexity = self.a - 1 - step
        soft = ops.clip(size - step * self.strength, 0, start)
        # Where the middle piece is concave its least value is at one of its ends, which belong to the others too.
        middle = ((self.a - 1) * size - step * end) / ops.where(convexity > 0, convexity, 1.0)
        middle = ops.where(convexity > 0, ops.clip(middle, start, end), soft)
        return ops.sign(w) * least([soft, middle, ops.maximum(size, end)], size, step, self._of_size)
