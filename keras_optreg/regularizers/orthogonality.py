"""Orthogonality: how far the filters of a layer are from an orthonormal set."""

from typing import Any

import keras
from keras import ops

from keras_optreg.regularizers import views
from keras_optreg.regularizers.matrices import identity_like, wide
from keras_optreg.regularizers.penalty_regularizer import PenaltyRegularizer
from keras_optreg.regularizers.views import View


@keras.saving.register_keras_serializable("keras_optreg")
class Orthogonality(PenaltyRegularizer):
    r"""Penalises the distance of M Mᵀ from the identity: filters become orthonormal ("soft orthogonality").

    Use it for deep networks, where it keeps gradients from growing and vanishing. It pulls all singular values to 1, so
    leave weight decay off the same weights.

        M     = the groups of the view as rows, n of m members
        Ω(w)  = λ ‖M Mᵀ − I‖²_F
        ∇Ω(w) = 4 λ (M Mᵀ − I) M

    With the default view the rows are the filters, and M Mᵀ is the paper's WᵀW.

    More filters than members (n > m) cannot be orthonormal. Since ‖M Mᵀ − I_n‖² = ‖Mᵀ M − I_m‖² + (n − m) and
    (M Mᵀ − I) M = M (Mᵀ M − I), the same penalty then makes the columns orthonormal, and ends at λ (n − m) and not at
    0. It is computed on the smaller side. By the same identity the paper's "double soft" penalty
    λ (‖WᵀW − I‖² + ‖W Wᵀ − I‖²) is this one at 2 λ, but for a constant; so there is no class for it.

    Args:
        strength: λ, a finite number >= 0.
        view: what is to be orthonormal. Defaults to `views.per_output`: filters, or the units of a Dense layer. Its
            transpose, as `per_input` is for a Dense kernel, has the same gradient.

    Raises:
        ValueError: when the strength is negative, infinite or no number, or the view is weighted by size; when it is
            applied, for a tensor whose rank is too low for the view.
        TypeError: when `view` is none of `keras_optreg.regularizers.views`.

    Example:
        >>> w = keras.ops.array([[1.0, 0.0], [0.0, 2.0]])
        >>> float(Orthogonality(0.5)(w))
        4.5
        >>> keras.ops.convert_to_numpy(Orthogonality(0.5).gradient(w)).tolist()
        [[0.0, 0.0], [0.0, 12.0]]

    Reference:
        N. Bansal, X. Chen, Z. Wang, "Can we gain more from orthogonality regularizations in training deep CNNs?",
        arXiv 1810.09102, section 3.1.

    Differs: `keras.regularizers.OrthogonalRegularizer` takes kernels of rank 2 alone, normalises their rows or columns,
    and sums the absolute values of the inner products between them; so it asks for no length.
    """

    arguments = ("view",)

    def __init__(self, strength: float, view: View = views.per_output):
        super().__init__(strength=strength)
        self.view = views.check("Orthogonality", view, is_matrix=True)

    def penalty(self, x: Any) -> Any:
        matrix = self.view.as_matrix(x)
        unreachable = max(matrix.shape[0] - matrix.shape[1], 0)
        return self.strength * (ops.sum(ops.square(_excess(wide(matrix)[0]))) + unreachable)

    def gradient(self, w: Any) -> Any:
        matrix, back = wide(self.view.as_matrix(w))
        return 4 * self.strength * self.view.from_matrix(back(ops.matmul(_excess(matrix), matrix)), w.shape)


def _excess(matrix: Any) -> Any:
    """M·Mᵀ − I."""
    gram = ops.matmul(matrix, ops.transpose(matrix))
    return gram - identity_like(gram)
