"""SRIP: how far the singular values of a layer are from 1 at most, by power iteration."""

from typing import Any

import keras
from keras import ops

from keras_optreg.bounds import POSITIVE_COUNT
from keras_optreg.regularizers import views
from keras_optreg.regularizers.matrices import top_pair, wide
from keras_optreg.regularizers.penalty_regularizer import PenaltyRegularizer
from keras_optreg.regularizers.views import View


@keras.saving.register_keras_serializable("keras_optreg")
class SRIP(PenaltyRegularizer):
    r"""Penalises the largest deviation from orthonormal filters (spectral restricted isometry property).

    Use it as `Orthogonality`; it is the authors' best. It pulls at the worst direction alone, with a force that does
    not fade near the goal, so it takes strengths that are lowered in the course of training (the paper goes from 0.1
    to 1e-3, 1e-4, 1e-6 and 0): `penalty.strength = 1e-3` acts in the next step.

        M     = the groups of the view as rows, n of m members, or their transpose where n > m
        Ω(w)  = λ σ(M Mᵀ − I) = λ |⟨u, (M Mᵀ − I) v⟩|      (σ: the largest singular value)
        ∇Ω(w) = λ (u vᵀ + v uᵀ) M
        u, v by power iteration: u ← Gv/‖Gv‖, v ← Gu/‖Gu‖ with G = M Mᵀ − I

    With the default view the rows are the filters, and M Mᵀ is the paper's WᵀW. The start is always the same vector, so
    equal weights have an equal penalty. The value is never above σ, and u and v are constants to the gradient.

    Args:
        strength: λ, a finite number >= 0.
        num_iterations: of the power iteration, an integer >= 1. Defaults to 2 as in the paper: four products with
            M and four with its transpose.
        view: what is to be orthonormal. Defaults to `views.per_output`: filters, or the units of a Dense layer.

    Raises:
        ValueError: when a number is outside its range, or the view is weighted by size; when it is applied, for a
            tensor whose rank is too low for the view.
        TypeError: when `view` is none of `keras_optreg.regularizers.views`.

    Example:
        >>> w = keras.ops.array([[1.0, 0.0], [0.0, 2.0]])
        >>> round(float(SRIP(0.5)(w)), 4)  # M Mᵀ − I = diag(0, 3)
        1.5

    Reference:
        N. Bansal, X. Chen, Z. Wang, "Can we gain more from orthogonality regularizations in training deep CNNs?",
        arXiv 1810.09102, section 3.3.

    Differs: the paper starts at random, and has no other side for n > m, where the eigenvalue −1 of WᵀW − I cannot be
    moved and hides all deviations that are smaller.
    """

    arguments = ("num_iterations", "view")
    bounds = {"num_iterations": POSITIVE_COUNT}

    def __init__(self, strength: float, num_iterations: int = 2, view: View = views.per_output):
        super().__init__(strength=strength)
        self.num_iterations = num_iterations
        self.view = views.check("SRIP", view, is_matrix=True)

    def penalty(self, x: Any) -> Any:
        matrix, _ = wide(self.view.as_matrix(x))
        u, v = self._vectors(ops.stop_gradient(matrix))
        return self.strength * (ops.sum(ops.matmul(u, matrix) * ops.matmul(v, matrix)) - ops.sum(u * v))

    def gradient(self, w: Any) -> Any:
        matrix, back = wide(self.view.as_matrix(w))
        u, v = self._vectors(matrix)
        product = ops.outer(u, ops.matmul(v, matrix)) + ops.outer(v, ops.matmul(u, matrix))
        return self.strength * self.view.from_matrix(back(product), w.shape)

    def _vectors(self, matrix: Any) -> tuple[Any, Any]:
        def excess(x: Any) -> Any:
            return ops.matmul(matrix, ops.matmul(x, matrix)) - x

        return top_pair(excess, excess, matrix, int(self.num_iterations))
