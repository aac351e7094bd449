"""SparseGroupLasso: the sum of absolute values and of the norms of groups."""

from typing import Any

import keras
from keras import ops

from keras_optreg.regularizers import views
from keras_optreg.regularizers.group_norm import norms, shrunk, units
from keras_optreg.regularizers.penalty_regularizer import PenaltyRegularizer
from keras_optreg.regularizers.views import View


@keras.saving.register_keras_serializable("keras_optreg")
class SparseGroupLasso(PenaltyRegularizer):
    r"""Penalises absolute values and the norms of groups: some groups go to zero, and single weights in the others.

    Use it where a group that stays need not stay whole: a few inputs for each of a few units. It is also the way to
    give one weight both proximal maps, of which an optimizer's `penalties=` takes one.

        Ω(w)       = λ₁ Σ |w| + λ₂ Σ_g ‖w_g‖₂
        ∇Ω(w)_g    = λ₁ sign(w_g) + λ₂ w_g / ‖w_g‖₂, the latter 0 where w_g = 0
        prox(w, s) = prox of λ₂ Σ_g ‖·‖₂ at sign(w) max(|w| − s λ₁, 0)

    The two maps compose in this order, with a step s_i for each weight too: at a minimum z ≠ 0,
    (z_i − w_i)/s_i + λ₁ sign(z_i) + λ₂ z_i/‖z‖ = 0 gives z_i (1 + s_i λ₂/‖z‖) = sign(w_i) max(|w_i| − s_i λ₁, 0).

    Args:
        l1: λ₁, a finite number >= 0, of single weights.
        group_strength: λ₂, a finite number >= 0, of groups.
        view: what a group is. Defaults to `views.per_output`, all weights into one unit or filter.
            `view.weighted_by_size()` multiplies λ₂ by √(number of members).

    Raises:
        ValueError: when a strength is negative, infinite or no number; when it is applied, for a tensor whose rank is
            too low for the view.
        TypeError: when `view` is none of `keras_optreg.regularizers.views`.

    Example:
        >>> w = keras.ops.array([[3.5, 0.3], [4.5, 0.4], [0.2, 0.0]])
        >>> round(float(SparseGroupLasso(0.5, 2.5)(w)), 4)
        19.961
        >>> print(keras.ops.convert_to_numpy(SparseGroupLasso(0.5, 2.5).proximal(w, 1.0)))
        [[1.5 0. ]
         [2.  0. ]
         [0.  0. ]]

    Reference:
        N. Simon, J. Friedman, T. Hastie, R. Tibshirani, "A sparse-group lasso", JCGS 22, 2013, equation 3.

    Differs: the paper writes λ₁ = α λ and λ₂ = (1 − α) λ √(group size); there `weighted_by_size()` is not an option.
    """

    arguments = ("view",)

    def __init__(self, l1: float, group_strength: float, view: View = views.per_output):
        super().__init__(l1=l1, group_strength=group_strength)
        self.view = views.check("SparseGroupLasso", view)

    def penalty(self, x: Any) -> Any:
        return self.l1 * ops.sum(ops.abs(x)) + self._group_strength(x) * ops.sum(norms(x, self.view))

    def gradient(self, w: Any) -> Any:
        return self.l1 * ops.sign(w) + self._group_strength(w) * units(w, self.view)

    def proximal(self, w: Any, step: Any) -> Any:
        thresholded = ops.sign(w) * ops.maximum(ops.abs(w) - self.l1 * step, 0)
        return shrunk(thresholded, self._group_strength(w) * step, self.view)

    def _group_strength(self, x: Any) -> Any:
        return self.group_strength * self.view.weight(x.shape)
