"""KLSparsity: units that are on only now and then."""

from typing import Any, NoReturn

import keras
from keras import ops

from keras_optreg.bounds import Interval
from keras_optreg.regularizers.penalty_regularizer import PenaltyRegularizer

_LEAST = 1e-6
"""Mean activities are kept this far from 0 and 1, where the divergence is infinite."""


@keras.saving.register_keras_serializable("keras_optreg")
class KLSparsity(PenaltyRegularizer):
    r"""Penalises units whose mean activity over a batch differs from a target: the sparse autoencoder's penalty.

    Use it as `activity_regularizer=` of a layer with outputs between 0 and 1, such as sigmoid's, or by
    `attach_activity` on a layer that is built. Batches must be large enough for a mean to say something.

        Ω(x) = λ Σⱼ  ρ log(ρ/ρ̂ⱼ) + (1 − ρ) log((1 − ρ)/(1 − ρ̂ⱼ)),   ρ̂ⱼ = the mean of unit j over the batch

    The last axis holds the units; the mean goes over all others. Keras divides the penalty of activities by the batch
    size: it is multiplied by it here before, so that what is added to the loss is Ω.

    Args:
        strength: λ, a finite number >= 0.
        target: ρ, the mean activity wanted, in (0, 1). Defaults to 0.05.

    Raises:
        ValueError: for a number outside its range.

    Example:
        >>> on_half_the_time = keras.ops.array([[1.0, 0.0], [0.0, 1.0]])
        >>> round(float(KLSparsity(1.0, target=0.5)(on_half_the_time)), 6)
        0.0

    Reference:
        A. Ng, "Sparse autoencoder", CS294A lecture notes, 2011, section 3.
    """

    bounds = {"target": Interval(0, 1, low_included=False)}
    arguments = ("target",)

    def __init__(self, strength: float = 0.01, target: float = 0.05):
        super().__init__(strength=strength)
        self.target = target

    def for_variable(self, variable: Any) -> NoReturn:
        raise ValueError(
            "KLSparsity is for the outputs of layers: attach_activity(model, KLSparsity(1e-3), on='code')."
        )

    def penalty(self, x: Any) -> Any:
        mean = ops.mean(x, axis=tuple(range(len(x.shape) - 1)))
        mean = ops.clip(mean, _LEAST, 1 - _LEAST)
        rho = self.target
        divergence = rho * ops.log(rho / mean) + (1 - rho) * ops.log((1 - rho) / (1 - mean))
        return self.strength * ops.sum(divergence) * ops.cast(ops.shape(x)[0], "float32")
