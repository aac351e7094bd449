"""The simplex."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_optreg.bounds import NON_NEGATIVE, check
from keras_optreg.constraints.constraint import Constraint, check_rank, checked_axis
from keras_optreg.projections import project_onto_simplex


@keras.saving.register_keras_serializable("keras_optreg")
class Simplex(Constraint):
    r"""Keeps weights non-negative with a given sum: shares, mixtures and probabilities.

    When to use it: weights that say how much of each input is taken, such as those of an ensemble, a portfolio or a
    transition matrix. Unlike a softmax it gives exact zeros.

        {w: w >= 0, Σ w = s}
        w ← max(w − θ, 0),    θ such that Σ w = s

    After every update the weight goes to the nearest point of the simplex, so training with `SGD` is projected
    gradient descent. A weight that is in it, with a sum right to 1e-6 of s, is left bit for bit. Keras constrains a
    weight after updates, not when it is made: before the first update it is what the initializer says.

    Args:
        total: s, a finite number >= 0. Defaults to 1.
        axis: The axes over which one sum is taken, an integer or a list of integers; each other index has a simplex of
            its own. `axis=0` is one simplex for each unit of a dense layer. None, the default, is one for the whole
            weight. (Keras's `MaxNorm` has 0 as the default.)

    Raises:
        ValueError: For a total that is negative, infinite or no number, or an axis that is none; in training, for an
            axis that the weight does not have.

    Example:
        >>> w = keras.ops.array([[1.0, -2.0], [0.5, 0.0]])
        >>> keras.ops.convert_to_numpy(Simplex(axis=0)(w)).round(4).tolist()
        [[0.75, 0.0], [0.25, 1.0]]

    Reference:
        Duchi, Shalev-Shwartz, Singer, Chandra, "Efficient projections onto the l1-ball for learning in high
        dimensions", ICML 2008, section 3. The root is found as in `projections.py`, by sums and without a sort.
    """

    def __init__(self, total: float = 1.0, axis: int | Sequence[int] | None = None):
        check("Simplex", {"total": total}, {"total": NON_NEGATIVE})
        self.total = float(total)
        self.axis = checked_axis("Simplex", axis)

    def nearest(self, w: Any) -> Any:
        check_rank("Simplex", self.axis, w)
        return project_onto_simplex(w, self.total, self.axis)

    def get_config(self) -> dict[str, Any]:
        return {"total": self.total, "axis": self.axis}
