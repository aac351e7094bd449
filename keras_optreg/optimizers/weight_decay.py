"""Weight decay that the learning rate does not touch."""

from collections.abc import Callable
from typing import Any

import keras

from keras_optreg.bounds import CLOSED_FRACTION, check
from keras_optreg.saving import deserialize, serialize
from keras_optreg.typing import Tensor


@keras.saving.register_keras_serializable("keras_optreg")
class FullyDecoupled:
    """Weight decay that is not multiplied by the learning rate: `weight_decay=FullyDecoupled(1e-4)`.

    When to use it: decay and rate are tuned apart; scripts of TensorFlow Addons, whose `AdamW` and `SGDW` decayed so.

        w ← w − λ·w, then the update             where a number decays by α·λ·w (Keras, PyTorch)

    A schedule of the learning rate does not lessen the decay, so give λ one of its own where it shall follow; learning
    rate multipliers do not touch it either.

    Args:
        rate: λ in [0, 1], the fraction of a weight that is taken away in one update; or a schedule of it.

    Raises:
        ValueError: for a number outside its range; from `LAMB`, `LARS`, `NovoGrad` and others whose rule takes the
            decay inside.

    Example:
        >>> from keras_optreg.optimizers import SGD
        >>> w = keras.Variable([1.0])
        >>> SGD(1e-3, weight_decay=FullyDecoupled(0.25)).apply([keras.ops.zeros(1)], [w])
        >>> keras.ops.convert_to_numpy(w).tolist()
        [0.75]

    Reference:
        Loshchilov & Hutter, "Decoupled weight decay regularization", 2019, Algorithm 2, arXiv:1711.05101.
    """

    def __init__(self, rate: float | Callable[[Any], Any]):
        if not callable(rate):
            check("FullyDecoupled", {"rate": rate}, {"rate": CLOSED_FRACTION})
        self.rate = rate

    def __call__(self, step: Tensor) -> Any:
        return self.rate(step) if callable(self.rate) else self.rate

    def __repr__(self) -> str:
        return f"FullyDecoupled({type(self.rate).__name__ if callable(self.rate) else self.rate})"

    def get_config(self) -> dict[str, Any]:
        return {"rate": serialize(self.rate) if callable(self.rate) else self.rate}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "FullyDecoupled":
        rate = config["rate"]
        return cls(deserialize(rate) if isinstance(rate, dict) else rate)
