"""L2SP: the distance to the weights with which training started."""

from typing import Any, NoReturn

import keras

from keras_optreg.live_numbers import LiveNumbers
from keras_optreg.regularizers.one_pass import sum_of_squares
from keras_optreg.regularizers.penalty_regularizer import PenaltyRegularizer


@keras.saving.register_keras_serializable("keras_optreg")
class L2SP(PenaltyRegularizer):
    r"""Penalises the distance to the starting weights: fine-tuning that does not forget.

    Use it for the pretrained part of a model, with a plain `L2` on the new layers:

        attach(model, L2SP(1e-2), on=~select.matching("head/"))
        attach(model, L2(1e-2), on=select.kernels() & select.matching("head/"))

        Ω(w)  = λ Σ (w − w⁰)²          w⁰: the weight when it was attached
        ∇Ω(w) = 2λ (w − w⁰)

    Only `attach` knows the starting weights, and keeps a copy of each: so not as `kernel_regularizer=`, and not in an
    optimizer's `penalties=`. They are not saved: after loading, `transfer` from the model that has them. (Attaching
    anew would start from the weights that were loaded.)

    Args:
        strength: λ, a finite number >= 0. The paper's α is 2λ.

    Raises:
        ValueError: when the strength is negative, infinite or no number, or when it is called without `attach`.

    Example:
        >>> from keras_optreg.regularizers import attach
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
        >>> table = attach(model, L2SP(0.5))
        >>> before = float(model.losses[0])
        >>> _ = model.layers[0].kernel.assign([[2.0], [1.0]])
        >>> before, float(model.losses[0])
        (0.0, 0.5)

    Reference:
        X. Li, Y. Grandvalet, F. Davoine, "Explicit inductive bias for transfer learning with convolutional networks",
        ICML 2018, equation 2 (its second term is the `L2` on the new layers).
    """

    def __init__(self, strength: float = 0.01):
        super().__init__(strength=strength)

    def penalty(self, x: Any) -> NoReturn:
        raise ValueError(
            "L2SP is called without the weights to start from. Give it to the weights of a built model: "
            "attach(model, L2SP(1e-2), on=...). As kernel_regularizer= it cannot know them."
        )

    def for_variable(self, variable: Any) -> "_FromStart":
        return _FromStart(self, variable)


class _FromStart(PenaltyRegularizer):
    """L2SP on one weight. Its strength is that of the object that was attached, its `origin`."""

    why_unsaved = "the weights that L2SP starts from are not saved: use transfer after loading"

    def __init__(self, origin: L2SP, variable: Any):
        self.origin = origin
        super().__init__()
        start = keras.ops.convert_to_numpy(variable)
        self._start = keras.Variable(start, dtype="float32", trainable=False, name="start")

    def live_parts(self) -> list[LiveNumbers]:
        return [self.origin]

    def penalty(self, x: Any) -> Any:
        return self.origin.strength * sum_of_squares(x - self._start)

    def gradient(self, w: Any) -> Any:
        return 2 * self.origin.strength * (w - self._start)

    def get_config(self) -> NoReturn:
        raise NotImplementedError(self.why_unsaved)

    def __repr__(self) -> str:
        return repr(self.origin)

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = PenaltyRegularizer.__hash__
