"""The machine every penalty runs on: a formula, and where known its gradient and its proximal map."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import keras
from keras import ops

from keras_optreg.bounds import NON_NEGATIVE, Interval, check


class PenaltyRegularizer(keras.regularizers.Regularizer):
    r"""A penalty Ω: a scalar that grows with what training should avoid. Subclass it to add one.

    A subclass writes `penalty`, and where they are known `gradient` and `proximal`; what it gives, it has:
    `has_gradient` and `has_proximal_map` follow from the methods. A subclass with another `penalty` inherits none of
    them: they belong to the formula of its parent. Being a Keras regularizer, a penalty fits
    `Dense(8, kernel_regularizer=...)`, `keras_optreg.attach`, and the `penalties=` of an optimizer of this package,
    where it acts through its proximal map unless it is `coupled()`.

    Strengths are checked, saved and shown here. They can be set, `penalty.strength = 1e-3`: value, config and equality
    follow. A function that is already traced keeps the old number, as it does with Keras's regularizers: afterwards
    call `model.compile(...)` again, or `model.make_train_function(force=True)` and `make_test_function(force=True)`
    (in a callback, too), or attach the same object again, which does that. The same holds for a penalty in an
    optimizer's `penalties=`, which is part of the train function.

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
    has_gradient: bool = False
    has_proximal_map: bool = False
    is_quadratic: bool = False
    """Whether it shrinks weights in proportion to their size, as weight decay does."""

    def __init__(self, **strengths: float):
        self._strengths = dict.fromkeys(strengths, 0.0)
        for name, value in strengths.items():
            setattr(self, name, value)
        self.is_coupled = False

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)

        def depth(name: str) -> int:
            return next(i for i, ancestor in enumerate(cls.__mro__) if name in vars(ancestor))

        for name in ("gradient", "proximal", "is_quadratic"):
            if depth(name) > min(depth("penalty"), depth("__call__")):
                setattr(cls, name, getattr(PenaltyRegularizer, name))
        cls.has_gradient = cls.gradient is not PenaltyRegularizer.gradient
        cls.has_proximal_map = cls.proximal is not PenaltyRegularizer.proximal

    def __getattr__(self, name: str) -> float:
        try:
            return self.__dict__["_strengths"][self.aliases.get(name, name)]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        strength, strengths = self.aliases.get(name, name), self.__dict__.get("_strengths", {})
        if strength not in strengths:
            return super().__setattr__(name, value)
        check(type(self).__name__, {name: value}, {name: self.bounds.get(strength, NON_NEGATIVE)})
        strengths[strength] = float(value)

    def __call__(self, x: Any) -> Any:
        """Ω(x) as a float32 scalar, whatever the dtype of `x`."""
        return self.penalty(ops.cast(x, "float32"))

    def penalty(self, x: Any) -> Any:
        """The formula: Ω(x), a scalar, for a float32 tensor `x`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `penalty(x)`.")

    def gradient(self, w: Any) -> Any:
        """∇Ω(w), a tensor like `w`."""
        raise NotImplementedError(f"{type(self).__name__} gives no gradient (`has_gradient` is False).")

    def proximal(self, w: Any, step: Any) -> Any:
        """argmin_z ½‖z − w‖² + step·Ω(z), a tensor like `w`; `step` >= 0 is a scalar or shaped like `w`."""
        raise NotImplementedError(f"{type(self).__name__} has no proximal map (`has_proximal_map` is False).")

    def coupled(self) -> Self:
        """The same penalty which in an optimizer's `penalties=` adds its gradient instead of using its proximal map."""
        return self.from_config({**self.get_config(), "is_coupled": True})

    def scaled(self, factor: float) -> Self:
        """The same penalty with all its strengths multiplied by `factor`."""
        return self.from_config({**self.get_config(), **{k: v * factor for k, v in self._strengths.items()}})

    def get_config(self) -> dict[str, Any]:
        return {**self._strengths, "is_coupled": self.is_coupled}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        arguments = dict(config)
        is_coupled = arguments.pop("is_coupled", False)
        penalty = cls(**arguments)
        penalty.is_coupled = is_coupled
        return penalty

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(type(self))  # strengths may change, a hash must not

    def __repr__(self) -> str:
        is_single = len(self._strengths) == 1
        arguments = [str(v) if is_single else f"{name}={v}" for name, v in self._strengths.items()]
        return f"{type(self).__name__}({', '.join(arguments)})" + (".coupled()" if self.is_coupled else "")
