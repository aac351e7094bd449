"""SpectralNorm: the largest singular value, by power iteration."""

from typing import Any

import keras
from keras import ops

from keras_optreg.bounds import POSITIVE_COUNT
from keras_optreg.regularizers import views
from keras_optreg.regularizers.matrices import top_pair
from keras_optreg.regularizers.penalty_regularizer import PenaltyRegularizer
from keras_optreg.regularizers.views import View


@keras.saving.register_keras_serializable("keras_optreg")
class SpectralNorm(PenaltyRegularizer):
    r"""Penalises the largest singular value: by how much a layer can stretch a change of its input.

    Use it against sensitivity to small changes of the input. For a convolution it is the norm of the kernel as the
    matrix (filters, window × channels), not of the convolution as a linear map.

        M     = the groups of the view as rows, σ₁ its largest singular value, u and v its vectors
        Ω(w)  = λ σ₁ = λ ⟨u, M v⟩
        ∇Ω(w) = λ u vᵀ
        u, v by power iteration: v ← Mᵀu/‖Mᵀu‖, u ← Mv/‖Mv‖

    The start is always the same vector, so equal weights have an equal penalty, now and after loading. The value is
    never above σ₁; how far below depends on the gap to the other singular values. For Dense kernels of shape 512×512
    it is lower by (independent normal weights, where the gaps are small; and such weights plus a matrix of rank one
    with twice their norm σ₁, as trained kernels often look):

        num_iterations    1      3      10     30     100
        normal            32 %   13 %   5 %    1 %    0.2 %
        one large         67 %   9 %    0      0      0

    u and v are constants to the gradient, which at their limit is exact.

    Args:
        strength: λ, a finite number >= 0.
        num_iterations: of the power iteration, an integer >= 1. Defaults to 10: two products of M with a vector each.
        view: what the rows of M are. Defaults to `views.per_output`. A view and its transpose have the same σ₁.

    Raises:
        ValueError: when a number is outside its range, or the view is weighted by size; when it is applied, for a
            tensor whose rank is too low for the view.
        TypeError: when `view` is none of `keras_optreg.regularizers.views`.

    Example:
        >>> w = keras.ops.array([[3.0, 0.0], [0.0, -0.25]])
        >>> round(float(SpectralNorm(0.5)(w)), 4)
        1.5

    Reference:
        Y. Yoshida, T. Miyato, "Spectral norm regularization for improving the generalizability of deep learning",
        arXiv 1705.10941, algorithm 1.

    Differs: the paper penalises ½ λ σ₁², and keeps v from step to step with one iteration each. A penalty has no
    memory; from a fixed start it takes more of them. There is no proximal map: it needs all singular values.
    """

    arguments = ("num_iterations", "view")
    bounds = {"num_iterations": POSITIVE_COUNT}

    def __init__(self, strength: float, num_iterations: int = 10, view: View = views.per_output):
        super().__init__(strength=strength)
        self.num_iterations = num_iterations
        self.view = views.check("SpectralNorm", view, is_matrix=True)

    def penalty(self, x: Any) -> Any:
        matrix = self.view.as_matrix(x)
        u, v = self._vectors(ops.stop_gradient(matrix))
        return self.strength * ops.sum(u * ops.matmul(matrix, v))

    def gradient(self, w: Any) -> Any:
        u, v = self._vectors(self.view.as_matrix(w))
        return self.strength * self.view.from_matrix(ops.outer(u, v), w.shape)

    def _vectors(self, matrix: Any) -> tuple[Any, Any]:
        transposed = ops.transpose(matrix)

        def there(v: Any) -> Any:
            return ops.matmul(matrix, v)

        def back(u: Any) -> Any:
            return ops.matmul(transposed, u)

        return top_pair(there, back, matrix, int(self.num_iterations))
