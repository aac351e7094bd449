"""What a probe is, and how it puts itself in front of a method."""

from collections.abc import Callable, Mapping
from typing import Any

import keras


class Probe:
    """Measures something about a model in training; knows nothing of where the values go.

    A subclass gives `measure`. The rest is for probes that must be there before, or within, what they measure:

    - `start`: once, before the first step of a training, when the model is built. A probe that changes the model or the
      optimizer in a way that compiled code must see returns True, and the train function is made anew, then and after
      `stop`;
    - `prepare`: before the steps that will be measured;
    - `measure`: after them;
    - `stop`: when the training ends, also when `start` raised an error; undoes `start`.
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


def stand_in(owner: Any, name: str, substitute: Any) -> Callable[[], None]:
    """Let `owner.name` be `substitute`, for this object alone; returns what puts back the attribute that stood there.

    It goes into `__dict__`, past the `__setattr__` of models and optimizers, which would track it.
    """
    attributes = owner.__dict__
    stood = {name: attributes[name]} if name in attributes else {}
    attributes[name] = substitute

    def put_back() -> None:
        attributes.pop(name, None)
        attributes.update(stood)

    return put_back


def compiled(model: Any, function: Callable[[], Any]) -> Callable[[], Any]:
    """A function of variables; TensorFlow runs a chain of small operations several times as fast when compiled."""
    if keras.config.backend() != "tensorflow" or model.run_eagerly:
        return function
    import tensorflow as tf

    return tf.function(function, autograph=False).get_concrete_function()
