"""Types shared by all families."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypedDict, runtime_checkable

from keras_optreg.select import Selector

Tensor = Any
"""A tensor of the running backend (or a scalar that converts to one)."""

Variable = Any
"""A `keras.Variable`, or a raw `tf.Variable` in a hand-written TensorFlow loop."""


@runtime_checkable
class Penalty(Protocol):
    """What an optimizer needs to know of a penalty given as `penalties=`."""

    is_coupled: bool
    has_proximal_map: bool
    has_gradient: bool
    takes_vector_steps: bool

    def gradient(self, w: Tensor) -> Tensor:
        """The gradient of the penalty at `w`."""
        ...

    def proximal(self, w: Tensor, step: Tensor) -> Tensor:
        """The minimiser over z of ½‖z − w‖² + step · penalty(z)."""
        ...

    def coupled(self) -> "Penalty":
        """The same penalty, acting through its gradient."""
        ...

    def settings(self) -> tuple[Any, ...]:
        """What a compiled step takes as constant of it: all but its strengths, which are read anew."""
        ...


class EngineOptions(TypedDict, total=False):
    """Keyword arguments that every optimizer takes and the engine carries out."""

    weight_decay_on: Selector | None
    learning_rate_multipliers: Sequence[tuple[Selector, float]] | None
    penalties: Penalty | Sequence[tuple[Selector, Penalty]] | None
    gradient_transforms: Any
    sparse: Literal["touched_rows"] | None
    clipnorm: float | None
    clipvalue: float | None
    global_clipnorm: float | None
    use_ema: bool
    ema_momentum: float
    ema_overwrite_frequency: int | None
    loss_scale_factor: float | None
    gradient_accumulation_steps: int | None
    name: str | None


class BaseOptions(EngineOptions, total=False):
    """The same, for optimizers whose own arguments do not hold `weight_decay`."""

    weight_decay: Any
