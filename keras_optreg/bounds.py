"""Legal ranges of numbers, declared once beside the class that takes them, and the one message for all of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isnan
from numbers import Real
from typing import Any


@dataclass(frozen=True)
class Interval:
    """A range of real numbers, `[low, high)` unless told otherwise."""

    low: float
    high: float
    low_included: bool = True
    high_included: bool = False
    is_count: bool = False

    def __contains__(self, value: float) -> bool:
        if self.is_count and value != int(value):
            return False
        above = value >= self.low if self.low_included else value > self.low
        below = value <= self.high if self.high_included else value < self.high
        return above and below

    def __str__(self) -> str:
        return f"{'[' if self.low_included else '('}{self.low}, {self.high}{']' if self.high_included else ')'}"


FRACTION = Interval(0, 1)
CLOSED_FRACTION = Interval(0, 1, high_included=True)
POSITIVE_FRACTION = Interval(0, 1, low_included=False, high_included=True)
POSITIVE = Interval(0, inf, low_included=False)
NON_NEGATIVE = Interval(0, inf)
COUNT = Interval(0, inf, is_count=True)
POSITIVE_COUNT = Interval(1, inf, is_count=True)


def is_number(value: Any) -> bool:
    """True for a real number of Python or NumPy; a bool and NaN are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and not isnan(value)


def check(owner: str, values: Mapping[str, Any], bounds: Mapping[str, Interval]) -> None:
    """Raise a `ValueError` that names the owner, the argument, its range and what came, for the first that is outside.

    >>> check("Adam", {"beta_1": 1.5}, {"beta_1": FRACTION})
    Traceback (most recent call last):
    ValueError: The `beta_1` of Adam must be a number in [0, 1). Received: beta_1=1.5
    """
    for name, interval in bounds.items():
        if not is_number(values[name]) or values[name] not in interval:
            kind = "an integer" if interval.is_count else "a number"
            raise ValueError(f"The `{name}` of {owner} must be {kind} in {interval}. Received: {name}={values[name]!r}")
