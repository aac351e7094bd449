"""The l1 ball."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_optreg.bounds import NON_NEGATIVE, check
from keras_optreg.constraints.constraint import Constraint, check_rank, checked_axis
from keras_optreg.projections import project_onto_l1_ball


@keras.saving.register_keras_serializable("keras_optreg")
class L1Ball(Constraint):
    r"""Keeps the sum of absolute values at or below a radius: sparse weights, with exact zeros.

    When to use it: sparsity by a budget, where it is known how large the weights of a layer or a unit may be
    together. With a strength instead of a budget, see `regularizers.L1`.

        {w: Σ |w| <= r}
        w ← sign(w) max(|w| − θ, 0),    θ = 0 inside the ball, else such that Σ |w| = r

    After every update the weight goes to the nearest point of the ball, so training with `SGD` is projected gradient
    descent. A weight that is in the ball to 1e-6 of its radius is left bit for bit. 16-bit weights are projected in
    float32 and rounded back, after which the sum may be above r by that rounding.

    Args:
        radius: r, a finite number >= 0. Defaults to 1.
        axis: The axes over which one sum is taken, an integer or a list of integers; each other index has a ball of
            its own. `axis=0` is one ball for each unit of a dense layer, `axis=[0, 1, 2]` for each filter of `Conv2D`.
            None, the default, is one ball for the whole weight. (Keras's `MaxNorm` has 0 as the default.)

    Raises:
        ValueError: For a radius that is negative, infinite or no number, or an axis that is none; in training, for an
            axis that the weight does not have.

    Example:
        >>> w = keras.ops.array([[1.0, 0.125], [-0.5, 0.0]])
        >>> keras.ops.convert_to_numpy(L1Ball(1.0)(w)).round(4).tolist()
        [[0.75, 0.0], [-0.25, 0.0]]
        >>> keras.ops.convert_to_numpy(L1Ball(1.0, axis=0)(w)).round(4).tolist()
        [[0.75, 0.125], [-0.25, 0.0]]

    Reference:
        Duchi, Shalev-Shwartz, Singer, Chandra, "Efficient projections onto the l1-ball for learning in high
        dimensions", ICML 2008, section 4. The root is found as in `projections.py`, by sums and without a sort.
    """

    def __init__(self, radius: float = 1.0, axis: int | Sequence[int] | None = None):
        check("L1Ball", {"radius": radius}, {"radius": NON_NEGATIVE})
        self.radius = float(radius)
        self.axis = checked_axis("L1Ball", axis)

    def nearest(self, w: Any) -> Any:
        check_rank("L1Ball", self.axis, w)
        return project_onto_l1_ball(w, self.radius, self.axis)

    def get_config(self) -> dict[str, Any]:
        return {"radius": self.radius, "axis": self.axis}
