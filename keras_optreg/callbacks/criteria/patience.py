"""Stop after some time without improvement."""

from keras_optreg.bounds import NON_NEGATIVE, check
from keras_optreg.callbacks.criteria.criterion import Criterion, Seen


class Patience(Criterion):
    """Stops when the value has not improved for n epochs: what `EarlyStopping` does by itself.

        x < b − min_delta            or, with `relative`,            x < b − min_delta · |b|

    is an improvement on the best b, for what is to be small. NaN and infinite values are none, and never the best.

    Args:
        n: Epochs (or checks, under `every=`) without improvement.
        min_delta: What counts as an improvement.
        relative: Take `min_delta` as a fraction of the best value.
        baseline: Values that have not passed it count as being without improvement.

    Raises:
        ValueError: For a negative number.

    Example:
        >>> patience = Patience(2)
        >>> [patience.observe(Seen(value, "loss", "min")) for value in (3, 1, 2)]
        [None, None, None]
        >>> patience.observe(Seen(1, "loss", "min"))
        'loss has not improved on 1 (epoch 1) for 2 epochs; last 1'
    """

    state = ("best", "best_where", "wait")

    def __init__(self, n: float = 5, min_delta: float = 0.0, relative: bool = False, baseline: float | None = None):
        numbers = {"n": n, "min_delta": min_delta}
        check("Patience", numbers, dict.fromkeys(numbers, NON_NEGATIVE))
        self.n = n
        self.min_delta = min_delta
        self.relative = relative
        self.baseline = baseline
        super().__init__()

    def reset(self) -> None:
        self.best: float | None = None
        self.best_where = ""
        self.wait = 0

    def observe(self, seen: Seen) -> str | None:
        self.wait += 1
        if self._improves(seen, self.best):
            self.best, self.best_where = seen.value, seen.where
            if self._improves(seen, self.baseline):
                self.wait = 0
            return None
        # Keras never stops after the very first epoch, whatever the patience.
        return self._reason(seen) if self.wait >= self.n and not seen.is_first else None

    def _improves(self, seen: Seen, reference: float | None) -> bool:
        return seen.improves(reference, self.min_delta, relative=self.relative)

    def _reason(self, seen: Seen) -> str:
        name, waited, last = seen.name, seen.counted(self.wait), f"last {seen.value:.4g}"
        if self.best is None:
            return f"{name} was not a number for {waited}"
        least = f" by {self.min_delta:g}{' of itself' if self.relative else ''}" if self.min_delta else ""
        if self.baseline is not None and not self._improves(seen._replace(value=self.best), self.baseline):
            return f"{name} has not passed the baseline {self.baseline:g}{least} for {waited}; {last}"
        return f"{name} has not improved on {self.best:.4g} ({self.best_where}){least} for {waited}; {last}"
