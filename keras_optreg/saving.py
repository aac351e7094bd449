"""Keras's serializer, kept from importing TensorFlow on JAX and torch."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras


@contextmanager
def without_tensorflow() -> Iterator[None]:
    """Keeps Keras's serializer from importing TensorFlow on JAX and torch.

    It imports TensorFlow wherever that is installed, only to ask whether a value is one of TensorFlow's types: seconds
    and hundreds of megabytes. The flag that says whether it is installed is private to Keras; should it go, nothing is
    lost but that time.
    """
    from keras.src.utils import module_utils

    lazy: Any = getattr(module_utils, "tensorflow", None)
    is_undecided = hasattr(lazy, "_available") and lazy._available is None
    if keras.backend.backend() == "tensorflow" or "tensorflow" in sys.modules or not is_undecided:
        yield
        return
    lazy._available = False
    try:
        yield
    finally:
        lazy._available = None


def without(config: Any, key: str) -> Any:
    """A config, however deep, without the entries of this name."""
    if isinstance(config, dict):
        return {name: without(value, key) for name, value in config.items() if name != key}
    return [without(value, key) for value in config] if isinstance(config, list) else config


def serialize(thing: Any) -> Any:
    """`keras.saving.serialize_keras_object`."""
    with without_tensorflow():
        return keras.saving.serialize_keras_object(thing)


def deserialize(config: Any, custom_objects: Any = None) -> Any:
    """`keras.saving.deserialize_keras_object`."""
    with without_tensorflow():
        return keras.saving.deserialize_keras_object(config, custom_objects=custom_objects)
