"""Numbers that may change while a compiled function reads them: strengths of penalties, rates of dropout."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import keras
import numpy as np
from keras import ops

NAME = "live_numbers"
"""The name of the variables, by which they are told from others."""


class LiveNumbers(keras.random.SeedGenerator):
    """Named numbers, which are floats to the reader, and tensors to a formula that runs while a `Home` is read.

    A seed generator by type alone. Keras finds those among the attributes of a layer, hands their `state` to every
    compiled function on every backend, and neither counts it as a weight nor saves it: what such numbers need. A
    Python number would be a constant in the compiled function, and on JAX so would any other variable.

    Args:
        **numbers: the numbers, by name; each becomes an attribute.
    """

    def __init__(self, **numbers: float):
        self._numbers = dict(numbers)
        self._given: Mapping[str, Any] | None = None
        self._homes: WeakSet[Home] = WeakSet()
        self.name = type(self).__name__
        self.home = Home(self.live_parts())

    def live_parts(self) -> Sequence["LiveNumbers"]:
        """The objects that hold the numbers: itself, or the parts it is made of."""
        return [self]

    @property
    def state(self) -> Any:
        """The variable that Keras hands to compiled functions."""
        return self.home.variable

    @property
    def numbers(self) -> dict[str, float]:
        """All numbers as floats, also where a formula is being traced."""
        return dict(self._numbers)

    def __getattr__(self, name: str) -> Any:
        numbers = self.__dict__.get("_given") or self.__dict__.get("_numbers", {})
        if name not in numbers:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return numbers[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.__dict__.get("_numbers", {}):
            return super().__setattr__(name, value)
        homes = list(self._homes)
        for home in homes:
            home.check_writable()
        self._numbers[name] = float(value)
        for home in homes:
            home.refresh()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return type(self).from_config(self.get_config())

    def __reduce__(self) -> Any:
        return type(self).from_config, (self.get_config(),)


class Home:
    """A variable that holds the numbers of some objects, one after another, and follows when one is set.

    Args:
        parts: the objects.
        variable: a float vector as long as all their numbers; a new one by default.
    """

    def __init__(self, parts: Iterable[LiveNumbers], variable: Any = None):
        self._parts = list(parts)
        if variable is None:
            values = self.values_of(self._parts)

            # A function, because within `fit` on JAX and torch a layer that is built then takes no values.
            def initializer(shape: Any, dtype: Any = None) -> Any:
                return ops.convert_to_tensor(values, dtype)

            variable = keras.Variable(initializer, values.shape, "float32", trainable=False, name=NAME)
        self.variable = variable
        for part in self._parts:
            part._homes.add(self)

    @staticmethod
    def values_of(parts: Iterable[LiveNumbers]) -> np.ndarray:
        """The numbers of these objects, one after another."""
        return np.array([number for part in parts for number in part.numbers.values()], "float64")

    def check_writable(self) -> None:
        """Whether the variable can be written now.

        Raises:
            RuntimeError: within `fit` on JAX, while the state of the model is with the compiled function, which would
                overwrite the variable.
        """
        if keras.backend.backend() == "jax":
            value: Any = self.variable._value  # None, or given away, while the training step has it
            if value is None or value.is_deleted():
                raise RuntimeError(
                    "On JAX the training step holds all state of the model while `fit` runs, so a number that is set "
                    "now would be lost. In a callback, look at `self.model` first: Keras then brings the state back."
                )

    def refresh(self) -> None:
        """Write the numbers into the variable."""
        self.variable.assign(self.values_of(self._parts))

    @contextmanager
    def reading(self, dtype: str = "float32", values: Any = None) -> Iterator[Any]:
        """While this lasts, the numbers of all parts are what the variable holds, as tensors.

        Parts that are being read already, as in a sum, keep what they have.

        Args:
            dtype: of the tensors.
            values: what to give in place of the variable's value, a vector.

        Yields:
            The vector.
        """
        before = [part._given for part in self._parts]
        if values is None and before and all(before):
            yield ops.stack([number for given in before if given for number in given.values()])
            return
        values = ops.cast(ops.convert_to_tensor(self.variable) if values is None else values, dtype)
        k = 0
        for part in self._parts:
            part._given = {name: values[k + i] for i, name in enumerate(part._numbers)}
            k += len(part._numbers)
        try:
            yield values
        finally:
            for part, given in zip(self._parts, before, strict=True):
                part._given = given
