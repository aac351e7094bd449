"""What a probe is."""

from collections.abc import Mapping
from typing import Any


class Probe:
    """Measures something about a model in training; knows nothing of where the values go.

    A subclass gives `measure`. The rest is for probes that must be there before, or within, what they measure:

    - `start`: once, before the first step of a training, when the model is built. A probe that changes the model or the
      optimizer in a way that compiled code must see returns True, and the train function is made anew;
    - `prepare`: before the steps that will be measured;
    - `measure`: after them;
    - `stop`: when the training ends; undoes `start`.
    """

    def start(self, model: Any) -> bool:
        """Get ready for a training; True when compiled functions must be made anew."""
        return False

    def prepare(self, model: Any) -> None:
        """Get ready for the coming measurement."""

    def measure(self, model: Any, logs: Mapping[str, float]) -> dict[str, Any]:
        """Names and numbers, or arrays; `logs` are Keras's logs of the moment."""
        raise NotImplementedError

    def stop(self, model: Any) -> None:
        """Leave no trace."""
