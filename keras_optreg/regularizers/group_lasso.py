"""GroupLasso: the sum of the norms of groups."""

from typing import Any

import keras
from keras import ops

from keras_optreg.regularizers import views
from keras_optreg.regularizers.group_norm import norms, shrunk, units
from keras_optreg.regularizers.penalty_regularizer import PenaltyRegularizer
from keras_optreg.regularizers.views import View


@keras.saving.register_keras_serializable("keras_optreg")
class GroupLasso(PenaltyRegularizer):
    r"""Penalises the norm of each group: whole units, filters, inputs or heads go to zero, or stay as a whole.

    Use it to find the width a layer needs, or the inputs. In the loss groups come close to zero but never reach it;
    given to an optimizer of this package, `Adam(1e-3, penalties=GroupLasso(1e-3))`, it acts through its proximal map
    and groups end exactly zero. A unit also needs a zero bias to be idle: its own weights are the kernel's alone.

        Ω(w)          = λ Σ_g ‖w_g‖₂
        ∇Ω(w)_g       = λ w_g / ‖w_g‖₂, 0 where w_g = 0
        prox(w, s)_g  = w_g max(1 − s λ / ‖w_g‖₂, 0)      (block soft thresholding)

    With a step s_i for each weight, as under Adam, prox(w, s)_g is 0 where Σ (w_i/s_i)² <= λ², and otherwise
    z_i = w_i r/(r + s_i λ) with r = ‖z_g‖₂, the root of Σ w_i²/(r + s_i λ)² = 1.

    Args:
        strength: λ, a finite number >= 0: a group is zero at the minimum where the gradient of the loss in it has a
            norm of at most λ.
        view: what a group is. Defaults to `views.per_output`, all weights into one unit or filter.
            `view.weighted_by_size()` multiplies λ by √(number of members), as in the paper's equation 2.1.

    Raises:
        ValueError: when the strength is negative, infinite or no number; when it is applied, for a tensor whose rank is
            too low for the view.
        TypeError: when `view` is none of `keras_optreg.regularizers.views`.

    Example:
        >>> w = keras.ops.array([[3.0, 0.3], [4.0, 0.4]])  # two units of two inputs
        >>> float(GroupLasso(2.5)(w))
        13.75
        >>> print(keras.ops.convert_to_numpy(GroupLasso(2.5).proximal(w, 1.0)))
        [[1.5 0. ]
         [2.  0. ]]

    Reference:
        M. Yuan, Y. Lin, "Model selection and estimation in regression with grouped variables", JRSS B 68, 2006. On
        networks: W. Wen et al., "Learning structured sparsity in deep neural networks", arXiv 1608.03665.

    Differs: the paper weighs groups by the square roots of their sizes, here only with `weighted_by_size()`.
    """

    arguments = ("view",)

    def __init__(self, strength: float, view: View = views.per_output):
        super().__init__(strength=strength)
        self.view = views.check("GroupLasso", view)

    def penalty(self, x: Any) -> Any:
        return self.strength * self.view.weight(x.shape) * ops.sum(norms(x, self.view))

    def gradient(self, w: Any) -> Any:
        return self.strength * self.view.weight(w.shape) * units(w, self.view)

    def proximal(self, w: Any, step: Any) -> Any:
        return shrunk(w, self.strength * self.view.weight(w.shape) * step, self.view)
