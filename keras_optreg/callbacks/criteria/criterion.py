"""When to stop: small objects that see one value after another and say why it is enough, or nothing."""

from collections.abc import Mapping
from copy import copy, deepcopy
from typing import Any, ClassVar, NamedTuple

from keras_optreg.callbacks.direction import Mode, is_better


class Seen(NamedTuple):
    """One observation, as a criterion gets it.

    Attributes:
        value: the monitored number.
        name: its name in the logs.
        mode: `"min"` or `"max"`.
        logs: everything that was logged with it.
        where: `"epoch 12"`, or `"step 400"`.
        unit: what observations are counted in: `"epoch"`, or `"check"` where there are several in an epoch.
        is_first: whether this is the very first epoch of a training, or its first check.
    """

    value: float
    name: str
    mode: Mode
    logs: Mapping[str, Any] = {}
    where: str = "epoch 1"
    unit: str = "epoch"
    is_first: bool = False

    def improves(self, reference: float | None, min_delta: float = 0.0, *, relative: bool = False) -> bool:
        """Whether the value is better than another by more than `min_delta`."""
        return is_better(self.value, reference, self.mode, min_delta, relative=relative)

    def counted(self, n: int) -> str:
        """`"1 epoch"`, `"5 epochs"`."""
        return f"{n} {self.unit}{'s' if n != 1 else ''}"


class Criterion:
    """Abstract: looks at a monitored value, again and again, and says when training is to stop, and why.

    A subclass names in `state` the attributes that change, sets them in `reset`, and looks at a value in `observe`.

    Criteria do not latch: each says what holds now. `a | b` stops as soon as one of them says so, `a & b` when both say
    so of the same value. Both see every value, whatever the other says, so their order does not matter.
    """

    state: ClassVar[tuple[str, ...]] = ()

    def __init__(self):
        self.reset()

    def observe(self, seen: Seen) -> str | None:
        """Take in one value.

        Returns:
            Why training is to stop, as a part of a sentence; None to go on.
        """
        raise NotImplementedError

    def reset(self) -> None:
        """Forget the last training."""

    def start(self) -> None:
        """Training begins, or goes on."""

    def stop(self) -> None:
        """Training ends, for now."""

    def state_dict(self) -> dict[str, Any]:
        """What must be kept to go on later as if never stopped; JSON can hold it."""
        return {name: copy(getattr(self, name)) for name in self.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state of `state_dict`.

        Raises:
            ValueError: when the names are not those of this criterion.
        """
        if set(state) != set(self.state):
            raise ValueError(
                f"This is not the state of {type(self).__name__}, which has {sorted(self.state)}. "
                f"Received: {sorted(state)}. Load it into the same criterion that it was taken from."
            )
        for name, value in state.items():
            setattr(self, name, copy(value))

    def __or__(self, other: "Criterion") -> "Either":
        return Either(self, other)

    def __and__(self, other: "Criterion") -> "Both":
        return Both(self, other)


class _Pair(Criterion):
    """Two criteria. They are copied: one object may stand in several places."""

    joint = ""

    def __init__(self, first: Criterion, second: Criterion):
        for one in (first, second):
            if not isinstance(one, Criterion):
                raise TypeError(f"{type(self).__name__} joins two criteria, such as Patience(5). Received: {one!r}")
        self.parts = (deepcopy(first), deepcopy(second))
        super().__init__()

    def reset(self) -> None:
        for part in self.parts:
            part.reset()

    def start(self) -> None:
        for part in self.parts:
            part.start()

    def stop(self) -> None:
        for part in self.parts:
            part.stop()

    def state_dict(self) -> dict[str, Any]:
        return {type(self).__name__: [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        kind = type(self).__name__
        if set(state) != {kind}:
            raise ValueError(
                f"This is not the state of {kind}, which has ['{kind}']. Received: {sorted(state)}. "
                "Load it into the same criterion that it was taken from."
            )
        for part, own in zip(self.parts, state[kind], strict=True):
            part.load_state_dict(own)

    def _reasons(self, seen: Seen) -> list[str]:
        answers = [part.observe(seen) for part in self.parts]
        return [answer for answer in answers if answer is not None]


class Either(_Pair):
    """Stops when one of two criteria says so: `a | b`."""

    def observe(self, seen: Seen) -> str | None:
        return "; ".join(self._reasons(seen)) or None


class Both(_Pair):
    """Stops when two criteria say so of the same value: `a & b`."""

    def observe(self, seen: Seen) -> str | None:
        reasons = self._reasons(seen)
        return " and ".join(reasons) if len(reasons) == 2 else None
