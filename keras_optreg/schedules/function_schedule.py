"""What every schedule shares: the step comes in as float32, numbers are checked, the config is written once."""

from collections.abc import Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import keras
import numpy as np
from keras import ops

from keras_optreg.bounds import Interval, check
from keras_optreg.saving import deserialize, serialize


class FunctionSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A number as a pure function of the step.

    To write one, subclass it, hand the numbers to `super().__init__`, which makes attributes of them, and give the
    function in `at`. It is used alike per step (`Adam(learning_rate=schedule)`), per epoch
    (`callbacks.LearningRateDecay(schedule)`) and by hand (`float(schedule(10))`).

    ```python
    @keras.saving.register_keras_serializable("my_package")
    class SquareRootDecay(FunctionSchedule):
        bounds = {"initial_learning_rate": NON_NEGATIVE}

        def __init__(self, initial_learning_rate, name=None):
            super().__init__(name, initial_learning_rate=initial_learning_rate)

        def at(self, step):
            return self.initial_learning_rate / ops.sqrt(step + 1.0)
    ```

    The step is counted in float32: exact up to 2**24 = 16.8 million, after that to one part in 16.8 million.

    Args:
        name: Kept in the config, as in Keras. The class's name when `None`.
        **numbers: The arguments of the schedule: real numbers, bools, or lists of numbers; also schedules, registered
            functions and lists of them.

    Raises:
        ValueError: When a number leaves the range that `bounds` declares for it.
    """

    bounds: ClassVar[Mapping[str, Interval]] = {}

    def __init__(self, name: str | None = None, **numbers: Any):
        super().__init__()
        check(type(self).__name__, numbers, self.bounds)
        self.name = name or type(self).__name__
        self._arguments = tuple(numbers)
        for argument, value in numbers.items():
            setattr(self, argument, _plain(value))

    if TYPE_CHECKING:  # the attributes that `__init__` makes of the numbers

        def __getattr__(self, name: str) -> Any: ...

    def at(self, step: Any) -> Any:
        """The value at `step`, a float32 scalar tensor >= 0; written with `keras.ops` only."""
        raise NotImplementedError

    def __call__(self, step: Any) -> Any:
        """The value at `step`: a number, a tensor or a variable; inside or outside of compiled code."""
        return ops.convert_to_tensor(self.at(ops.cast(step, "float32")), "float32")

    def get_config(self) -> dict[str, Any]:
        return {**{argument: serialize(getattr(self, argument)) for argument in self._arguments}, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**{argument: deserialize(value) for argument, value in config.items()})

    def __repr__(self) -> str:
        shown = ", ".join(f"{argument}={_shown(getattr(self, argument))}" for argument in self._arguments)
        return f"{type(self).__name__}({shown})"


def whole(step: Any, period: float) -> Any:
    """⌊step / period⌋, exact for whole numbers also where XLA multiplies by 1/period: 49 · (1/49) is below 1 there."""
    count = ops.floor(step / period)
    count = ops.where(step < count * period, count - 1.0, count)
    return ops.where(step >= (count + 1.0) * period, count + 1.0, count)


def _plain(value: Any) -> Any:
    """NumPy's numbers and tuples as Python's, so that the config is JSON."""
    if isinstance(value, np.generic):
        return value.item()
    return [_plain(item) for item in value] if isinstance(value, (list, tuple, np.ndarray)) else value


def _shown(value: Any) -> str:
    return value.__name__ if isinstance(value, FunctionType) else repr(value)
