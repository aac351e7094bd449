"""Stop a training that is lost."""

from math import inf, isfinite

from keras_optreg.bounds import NON_NEGATIVE, Interval, check
from keras_optreg.callbacks.criteria.criterion import Criterion, Seen


class Divergence(Criterion):
    """Stops when the value is not finite, worse than a bound, or much worse than the best.

    When to use it: beside another criterion, so that a search does not spend its time on a lost training.

        x > bound                    or                    x > b + relative · |b|

    for what is to be small, b the best so far.

    Args:
        bound: Worse than this is lost; None for no bound.
        relative: Worse than the best by more than this share of it is lost; 1 is twice the best loss. None for no such
            limit.

    Raises:
        ValueError: For a negative share, or a bound that is not a number.

    Example:
        >>> lost = Divergence(relative=1.0)
        >>> [lost.observe(Seen(value, "loss", "min")) for value in (3, 2, 3.9)]
        [None, None, None]
        >>> lost.observe(Seen(4.1, "loss", "min"))
        'loss is worse than its best, 2, by more than 1 of it; last 4.1'
        >>> lost.observe(Seen(float("nan"), "loss", "min"))
        'loss is nan'
    """

    state = ("best",)

    def __init__(self, bound: float | None = None, relative: float | None = None):
        given = {"bound": bound, "relative": relative}
        ranges = {"bound": Interval(-inf, inf), "relative": NON_NEGATIVE}
        check("Divergence", given, {name: ranges[name] for name, value in given.items() if value is not None})
        self.bound = bound
        self.relative = relative
        super().__init__()

    def reset(self) -> None:
        self.best: float | None = None

    def observe(self, seen: Seen) -> str | None:
        if not isfinite(seen.value):
            return f"{seen.name} is {seen.value}"
        if seen.improves(self.best):
            self.best = seen.value
        last = f"last {seen.value:.4g}"
        if self.bound is not None and _is_worse(seen, self.bound):
            return f"{seen.name} is worse than {self.bound:g}; {last}"
        if self.relative is not None and self.best is not None:
            margin = self.relative * abs(self.best)
            if _is_worse(seen, self.best + (margin if seen.mode == "min" else -margin)):
                return (
                    f"{seen.name} is worse than its best, {self.best:.4g}, by more than {self.relative:g} of it; {last}"
                )
        return None


def _is_worse(seen: Seen, reference: float) -> bool:
    return seen._replace(value=reference).improves(seen.value)
