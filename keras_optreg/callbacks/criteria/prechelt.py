"""Prechelt's three criteria: how far the validation loss has risen, against what training still gains, and how often.

All are for losses: for numbers that are to be small and are not negative. NaN counts as infinitely large.
"""

from math import inf, isnan

from keras_optreg.bounds import POSITIVE, POSITIVE_COUNT, check
from keras_optreg.callbacks.criteria.criterion import Criterion, Seen


class GeneralizationLoss(Criterion):
    """Stops when the validation loss is α percent above its lowest: Prechelt's class GL.

        GL(t) = 100 · (E_va(t) / E_opt(t) − 1) > α                  E_opt(t) the lowest E_va until t

    When to use it: by the paper's rules of thumb, where any good solution will do. Noise of α percent stops it, too.

    Args:
        alpha: α, percent; the paper has 1 to 5.

    Raises:
        ValueError: For an α that is not above 0; in training, for a number that is to be large, such as an accuracy,
            and for a negative one: their ratio says nothing.

    Example:
        >>> criterion = GeneralizationLoss(5)
        >>> [criterion.observe(Seen(value, "val_loss", "min")) for value in (2.0, 1.0, 1.04)]
        [None, None, None]
        >>> criterion.observe(Seen(1.06, "val_loss", "min"))
        'val_loss is 6% above its lowest, 1 (GL > 5)'

    Reference:
        Prechelt, "Early stopping - but when?", 1998, section 2.
    """

    state = ("best",)

    def __init__(self, alpha: float = 5.0):
        check(type(self).__name__, {"alpha": alpha}, {"alpha": POSITIVE})
        self.alpha = alpha
        super().__init__()

    def reset(self) -> None:
        self.best: float | None = None

    def observe(self, seen: Seen) -> str | None:
        gl = self._loss(seen)
        if gl > self.alpha:
            return f"{seen.name} is {gl:.4g}% above its lowest, {self.best:.4g} (GL > {self.alpha:g})"
        return None

    def _loss(self, seen: Seen) -> float:
        """GL(t)."""
        value = _checked(self, seen)
        self.best = value if self.best is None else min(self.best, value)
        if value == self.best:
            return 0.0
        return 100 * (value / self.best - 1) if self.best else inf


class ProgressQuotient(GeneralizationLoss):
    """Stops when the validation loss has risen much, measured by how much training still gains: the class PQ.

        P_k(t) = 1000 · (Σ E_tr / (k · min E_tr) − 1)               over the last k epochs, a strip
        GL(t) / P_k(t) > α                                          at the end of a strip

    When to use it: by the paper's rules of thumb, for the best solutions on average, of models that overfit only a
    little: while the training loss still falls fast, a rise is often made good. It needs a training loss in the logs.

    Args:
        alpha: α; the paper has 0.5 to 3.
        strip: k, epochs (or checks, under `every=`).
        loss: The name of the training loss E_tr in the logs.

    Raises:
        ValueError: For numbers out of range; in training, as `GeneralizationLoss`, and when the training loss is not in
            the logs.

    Example:
        >>> criterion = ProgressQuotient(0.5, strip=2)
        >>> for validation, training in ((1.0, 4.0), (0.9, 2.0), (1.0, 1.5), (1.1, 1.5)):
        ...     reason = criterion.observe(Seen(validation, "val_loss", "min", {"loss": training}))
        >>> reason                                              # GL = 22.2, no progress at all
        'val_loss is 22.22% above its lowest, 0.9, and training made 0 per mille of progress (PQ > 0.5)'

    Reference:
        Prechelt, "Early stopping - but when?", 1998, section 2.
    """

    state = ("best", "strip_losses")

    def __init__(self, alpha: float = 0.75, strip: int = 5, loss: str = "loss"):
        check("ProgressQuotient", {"strip": strip}, {"strip": POSITIVE_COUNT})
        self.strip = strip
        self.loss = loss
        super().__init__(alpha)

    def reset(self) -> None:
        super().reset()
        self.strip_losses: list[float] = []

    def observe(self, seen: Seen) -> str | None:
        if self.loss not in seen.logs:
            raise ValueError(
                f"ProgressQuotient needs the training loss {self.loss!r}, which is not in the logs. "
                f"There are: {', '.join(seen.logs) or 'none'}."
            )
        gl = self._loss(seen)
        training = _checked(self, seen._replace(name=self.loss, value=float(seen.logs[self.loss])))
        self.strip_losses = [*self.strip_losses, training]
        if len(self.strip_losses) < self.strip:
            return None
        losses, self.strip_losses = self.strip_losses, []
        lowest = min(losses)
        mean = sum(losses) / len(losses)
        progress = 0.0 if mean == lowest else 1000 * (mean / lowest - 1) if lowest else inf
        if gl > self.alpha * progress:  # GL/P > α, also where P is 0
            return (
                f"{seen.name} is {gl:.4g}% above its lowest, {self.best:.4g}, and training made {progress:.4g} per "
                f"mille of progress (PQ > {self.alpha:g})"
            )
        return None


class UpStrips(Criterion):
    """Stops when the validation loss has risen s times in a row, from strip to strip: the class UP.

        E_va(t) > E_va(t − k)                      at the ends of s successive strips of k epochs

    When to use it: by the paper's rules of thumb, for the best solutions on average, of models that do overfit. It
    looks at the sign of changes alone, so it needs no scale.

    Args:
        s: Successive strips.
        strip: k, epochs (or checks, under `every=`); the paper has 5.

    Raises:
        ValueError: For numbers out of range; in training, as `GeneralizationLoss`.

    Example:
        >>> criterion = UpStrips(2, strip=1)
        >>> [criterion.observe(Seen(value, "val_loss", "min")) for value in (3, 1, 2)]
        [None, None, None]
        >>> criterion.observe(Seen(2.5, "val_loss", "min"))
        'val_loss rose over 2 successive strips; last 2.5'

    Reference:
        Prechelt, "Early stopping - but when?", 1998, section 2.
    """

    state = ("previous", "in_strip", "rises")

    def __init__(self, s: int = 3, strip: int = 5):
        numbers = {"s": s, "strip": strip}
        check("UpStrips", numbers, dict.fromkeys(numbers, POSITIVE_COUNT))
        self.s = s
        self.strip = strip
        super().__init__()

    def reset(self) -> None:
        self.previous: float | None = None  # at the end of the last strip
        self.in_strip = 0
        self.rises = 0

    def observe(self, seen: Seen) -> str | None:
        value = _checked(self, seen)
        self.in_strip += 1
        if self.in_strip < self.strip:
            return None
        self.in_strip = 0
        rose = self.previous is not None and (value > self.previous or value == inf)
        self.previous, self.rises = value, self.rises + 1 if rose else 0
        if self.rises >= self.s:
            return f"{seen.name} rose over {self.rises} successive strips; last {seen.value:.4g}"
        return None


def _checked(criterion: Criterion, seen: Seen) -> float:
    """The value, if it can be a loss."""
    kind = type(criterion).__name__
    if seen.mode == "max":
        raise ValueError(f"{kind} is for losses, and {seen.name!r} is to be large. Monitor a loss, or use Patience.")
    if seen.value < 0:
        raise ValueError(
            f"{kind} is for losses that are not negative: it compares them by their ratio. Received: "
            f"{seen.name}={seen.value:.4g}. Use Patience."
        )
    return inf if isnan(seen.value) else seen.value
