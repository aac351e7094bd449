"""Stop at a goal."""

from math import inf

from keras_optreg.bounds import Interval, check
from keras_optreg.callbacks.criteria.criterion import Criterion, Seen


class Threshold(Criterion):
    """Stops when the value reaches a goal: good enough.

    When to use it: there is nothing to gain beyond, as with 99% accuracy of a step in a pipeline; and to count the
    epochs that methods need to get there.

    Args:
        goal: The value; equal to it will do.

    Raises:
        ValueError: When the goal is not a number.

    Example:
        >>> goal = Threshold(0.9)
        >>> goal.observe(Seen(0.8, "accuracy", "max"))
        >>> goal.observe(Seen(0.9, "accuracy", "max"))
        'accuracy has reached 0.9; last 0.9'
    """

    def __init__(self, goal: float):
        check("Threshold", {"goal": goal}, {"goal": Interval(-inf, inf)})
        self.goal = goal
        super().__init__()

    def observe(self, seen: Seen) -> str | None:
        if seen.value == self.goal or seen.improves(self.goal):
            return f"{seen.name} has reached {self.goal:g}; last {seen.value:.4g}"
        return None
