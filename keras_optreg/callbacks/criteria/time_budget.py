"""Stop when the time is up."""

import time
from datetime import timedelta
from math import inf
from typing import Any

from keras_optreg.bounds import Interval, check
from keras_optreg.callbacks.criteria.criterion import Criterion, Seen


class TimeBudget(Criterion):
    """Stops when training has taken some time, counted from where it first began, over resumed runs.

    When to use it: machines that are lent for some hours; methods compared at equal time. The clock is looked at with
    each value, so the last epoch is finished; `EarlyStopping(every=...)` looks more often.

    Args:
        limit: Seconds, or a `datetime.timedelta`.

    Attributes:
        seconds: Those that training took so far.

    Raises:
        ValueError: When the time is not above 0.

    Example:
        ```python
        EarlyStopping("val_loss", criterion=Patience(10) | TimeBudget(timedelta(hours=2)))
        ```
    """

    state = ("seconds",)

    def __init__(self, limit: float | timedelta):
        seconds = limit.total_seconds() if isinstance(limit, timedelta) else limit
        check("TimeBudget", {"limit": seconds}, {"limit": Interval(0, inf, low_included=False)})
        self.limit = float(seconds)
        super().__init__()

    def reset(self) -> None:
        self.seconds = 0.0
        self._last: float | None = None  # when the clock was looked at, while it runs

    def start(self) -> None:
        self._last = time.monotonic()

    def stop(self) -> None:
        self._look()
        self._last = None

    def observe(self, seen: Seen) -> str | None:
        self._look()
        return f"the {self.limit:g} seconds are over, {self.seconds:.4g} taken" if self.seconds >= self.limit else None

    def state_dict(self) -> dict[str, Any]:
        self._look()
        return super().state_dict()

    def _look(self) -> None:
        if self._last is not None:
            now = time.monotonic()
            self.seconds += now - self._last
            self._last = now
