"""Sum: several penalties on one weight as one object."""

from typing import Any, Self

import keras

from keras_optreg.introspection import is_quadratic, shown
from keras_optreg.live_numbers import LiveNumbers
from keras_optreg.regularizers.penalty_regularizer import PenaltyRegularizer
from keras_optreg.saving import deserialize, serialize


@keras.saving.register_keras_serializable("keras_optreg")
class Sum(PenaltyRegularizer):
    r"""Several penalties added: what `attach(..., existing="add")` leaves on a weight.

        Ω(w)  = Σₖ Ωₖ(w)
        ∇Ω(w) = Σₖ ∇Ωₖ(w)

    It has a gradient when all its parts have one. A sum has no proximal map in general: in an optimizer's `penalties=`
    use it `coupled()`, or a penalty that composes both, such as `L1L2`.

    Args:
        *penalties: `keras.regularizers.Regularizer` objects, at least one; a `Sum` among them is taken apart.

    Raises:
        TypeError: when a part is no regularizer object.
        ValueError: when there is no part.

    Example:
        >>> from keras_optreg.regularizers import L1, L2
        >>> float(Sum(L1(0.5), L2(0.25))(keras.ops.array([1.0, -2.0])))
        2.75
    """

    def __init__(self, *penalties: keras.regularizers.Regularizer):
        if not penalties:
            raise ValueError("Sum takes at least one penalty, as in Sum(L1(1e-5), L2(1e-4)). Received none.")
        for part in penalties:
            if not isinstance(part, keras.regularizers.Regularizer):
                raise TypeError(f"The parts of a Sum must be regularizer objects, such as L1(1e-5). Received: {part!r}")
        self.penalties = tuple(part for p in penalties for part in (p.penalties if isinstance(p, Sum) else (p,)))
        super().__init__()
        self.has_gradient = all(getattr(part, "has_gradient", False) for part in self.penalties)

    @property
    def is_quadratic(self) -> bool:
        """Whether one of its parts is."""
        return any(map(is_quadratic, self.penalties))

    def penalty(self, x: Any) -> Any:
        return sum(part(x) for part in self.penalties)

    def gradient(self, w: Any) -> Any:
        if not self.has_gradient:
            raise NotImplementedError(f"A part of {self!r} gives no gradient (`has_gradient` is False).")
        return sum(part.gradient(w) for part in self.penalties)  # type: ignore[attr-defined]

    def live_parts(self) -> list[LiveNumbers]:
        return [part for part in self.penalties if isinstance(part, LiveNumbers)]

    def settings(self) -> tuple[Any, ...]:
        parts = (p.settings() if isinstance(p, PenaltyRegularizer) else repr(p) for p in self.penalties)
        return type(self), self.is_coupled, *parts

    def for_variable(self, variable: Any) -> "Sum":
        parts = [p.for_variable(variable) if isinstance(p, PenaltyRegularizer) else p for p in self.penalties]
        return self if all(a is b for a, b in zip(parts, self.penalties, strict=True)) else Sum(*parts)

    @property
    def why_unsaved(self) -> str:
        """That of the first part which has a reason."""
        return next(filter(None, (getattr(part, "why_unsaved", "") for part in self.penalties)), "")

    def scaled(self, factor: float) -> Self:
        for part in self.penalties:
            if not isinstance(part, PenaltyRegularizer):
                raise TypeError(f"Only penalties of keras_optreg can be scaled; {self!r} contains {part!r}.")
        scaled = type(self)(*(part.scaled(factor) for part in self.penalties))  # type: ignore[attr-defined]
        return scaled.coupled() if self.is_coupled else scaled

    def get_config(self) -> dict[str, Any]:
        parts = [serialize(part) for part in self.penalties]
        return {"penalties": parts, "is_coupled": self.is_coupled}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        total = cls(*(deserialize(part) for part in config["penalties"]))
        total.is_coupled = config.get("is_coupled", False)
        return total

    def __repr__(self) -> str:
        return f"Sum({', '.join(map(shown, self.penalties))})" + (".coupled()" if self.is_coupled else "")
