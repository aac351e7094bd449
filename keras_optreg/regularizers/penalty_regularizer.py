"""The machine every penalty runs on: a formula, and where known its gradient and its proximal map."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import keras
from keras import ops

from keras_optreg.bounds import NON_NEGATIVE, Interval, check
from keras_optreg.live_numbers import LiveNumbers
from keras_optreg.regularizers.one_pass import with_gradient
from keras_optreg.saving import deserialize, serialize


class PenaltyRegularizer(keras.regularizers.Regularizer, LiveNumbers):
    r"""A penalty Ω: a scalar that grows with what training should avoid. Subclass it to add one.

    A subclass writes `penalty`, and where they are known `gradient` and `proximal`; what it gives, it has:
    `has_gradient` and `has_proximal_map` follow from the methods. A subclass with another `penalty` inherits none of
    them: they belong to the formula of its parent. Being a Keras regularizer, a penalty fits
    `Dense(8, kernel_regularizer=...)`, `keras_optreg.attach`, and the `penalties=` of an optimizer of this package,
    where it acts through its proximal map unless it is `coupled()`.

    Strengths are checked, saved and shown here. They can be set at any time, `penalty.strength = 1e-3`, and act from
    the next training step on, in functions that are already compiled too, on every backend: inside `penalty`,
    `gradient` and `proximal` a strength is a tensor that is read anew at every step, elsewhere a float.
    (On JAX a callback must have looked at `self.model` before it sets one, otherwise that is an error; and the layer
    must have the penalty as an attribute, as Keras's layers and `attach` see to.)

    `gradient` and `proximal` are written with `keras.ops`: on TensorFlow they are compiled by XLA.

    The scalar is always float32, and so are the sums behind it: a sum of squares in float16 overflows at 65504.

    Args:
        **strengths: the numbers of the formula, each finite and >= 0 unless `bounds` of the subclass says otherwise.

    Raises:
        ValueError: for a number out of its range.

    Example:
        >>> @keras.saving.register_keras_serializable("my_project")
        ... class L4(PenaltyRegularizer):
        ...     def __init__(self, strength):
        ...         super().__init__(strength=strength)
        ...     def penalty(self, x):
        ...         return self.strength * ops.sum(x**4)
        >>> float(L4(0.5)(ops.array([1.0, 2.0])))
        8.5
    """

    bounds: ClassVar[Mapping[str, Interval]] = {}
    aliases: ClassVar[Mapping[str, str]] = {}
    """Other names of strengths, such as Keras's: alias -> strength."""
    arguments: ClassVar[tuple[str, ...]] = ()
    """The constructor's other arguments, each an attribute of its name, such as a view. They cannot be set later."""
    has_gradient: bool = False
    has_proximal_map: bool = False
    takes_vector_steps: bool = True
    """Whether the proximal map takes a step for each weight, as the rules of Adam and its kin need."""
    is_one_pass: bool = False
    """Whether its gradient is a tensor times the strength: one pass over memory, also where nothing is compiled."""
    why_unsaved: str = ""
    """For a penalty that cannot be saved: why, and what to do."""
    is_quadratic: bool = False
    """Whether it shrinks weights in proportion to their size, as weight decay does."""

    def __init__(self, **strengths: float):
        for name, value in strengths.items():
            check(type(self).__name__, {name: value}, {name: self.bounds.get(name, NON_NEGATIVE)})
        LiveNumbers.__init__(self, **{name: float(value) for name, value in strengths.items()})
        self.is_coupled = False

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)

        def depth(name: str) -> int:
            return next(i for i, ancestor in enumerate(cls.__mro__) if name in vars(ancestor))

        for name in ("gradient", "proximal", "is_quadratic"):
            if depth(name) > min(depth("penalty"), depth("__call__")):
                setattr(cls, name, getattr(PenaltyRegularizer, name))
        if {"gradient", "penalty", "__call__"} & set(vars(cls)) and "is_one_pass" not in vars(cls):
            cls.is_one_pass = False  # said of the parent's gradient
        cls.has_gradient = cls.gradient is not PenaltyRegularizer.gradient
        cls.has_proximal_map = cls.proximal is not PenaltyRegularizer.proximal

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(self.aliases.get(name, name))

    def __setattr__(self, name: str, value: Any) -> None:
        strength = self.aliases.get(name, name)
        if strength in self.__dict__.get("_numbers", {}):
            check(type(self).__name__, {name: value}, {name: self.bounds.get(strength, NON_NEGATIVE)})
        elif name in self.arguments:
            if name in self.__dict__:
                kind = type(self).__name__
                raise AttributeError(f"The `{name}` of {kind} is part of its formula. Make another {kind}.")
            if name in self.bounds:
                check(type(self).__name__, {name: value}, {name: self.bounds[name]})
        super().__setattr__(strength, value)

    def __call__(self, x: Any) -> Any:
        """Ω(x) as a float32 scalar, whatever the dtype of `x`."""
        return with_gradient(self, ops.cast(x, "float32"))

    def penalty(self, x: Any) -> Any:
        """The formula: Ω(x), a scalar, for a float32 tensor `x`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `penalty(x)`.")

    def gradient(self, w: Any) -> Any:
        """∇Ω(w), a tensor like `w`."""
        raise NotImplementedError(f"{type(self).__name__} gives no gradient (`has_gradient` is False).")

    def proximal(self, w: Any, step: Any) -> Any:
        """argmin_z ½‖z − w‖² + step·Ω(z), a tensor like `w`; `step` >= 0 is a scalar or shaped like `w`.

        With a step d for each weight it is argmin_z ½ Σ (z − w)²/d + Ω(z).
        """
        raise NotImplementedError(f"{type(self).__name__} has no proximal map (`has_proximal_map` is False).")

    def for_variable(self, variable: Any) -> Self:
        """What `attach` puts on this weight: itself, unless the formula needs something of the weight."""
        return self

    def coupled(self) -> Self:
        """The same penalty which in an optimizer's `penalties=` adds its gradient instead of using its proximal map."""
        return self.from_config({**self.get_config(), "is_coupled": True})

    def scaled(self, factor: float) -> Self:
        """The same penalty with all its strengths multiplied by `factor`."""
        return self.from_config({**self.get_config(), **{k: v * factor for k, v in self.numbers.items()}})

    def settings(self) -> tuple[Any, ...]:
        """What a compiled function takes as constant: all but the strengths."""
        return type(self), self.is_coupled, *(repr(getattr(self, name)) for name in self.arguments)

    def get_config(self) -> dict[str, Any]:
        arguments = {name: serialize(getattr(self, name)) for name in self.arguments}
        return {**self.numbers, **arguments, "is_coupled": self.is_coupled}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        arguments = {name: deserialize(value) if name in cls.arguments else value for name, value in config.items()}
        is_coupled = arguments.pop("is_coupled", False)
        penalty = cls(**arguments)
        penalty.is_coupled = is_coupled
        return penalty

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(type(self))  # strengths may change, a hash must not

    def __repr__(self) -> str:
        is_single = len(self.numbers) == 1
        shown = [str(v) if is_single else f"{name}={v}" for name, v in self.numbers.items()]
        shown += [f"{name}={getattr(self, name)!r}" for name in self.arguments]
        return f"{type(self).__name__}({', '.join(shown)})" + (".coupled()" if self.is_coupled else "")
