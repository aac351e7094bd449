"""Is more of a logged number better, or less? And which of two is?"""

from collections.abc import Iterator
from math import isfinite
from typing import Any, Literal

Mode = Literal["min", "max"]


def is_better(
    value: float, reference: float | None, mode: Mode, min_delta: float = 0.0, *, relative: bool = False
) -> bool:
    """Whether a value improves on a reference by more than `min_delta`, or, `relative`, than that share of it.

    NaN and infinite values never do; any other does where there is no reference.
    """
    if not isfinite(value):
        return False
    if reference is None:
        return True
    margin = min_delta * (abs(reference) if relative else 1)
    return value < reference - margin if mode == "min" else value > reference + margin


def direction(model: Any, name: str) -> Mode | None:
    """`"min"` or `"max"`, or `None` when nothing says which; `val_` in front of the name does not matter.

    A compiled metric says itself; losses and penalties are to be small.
    """
    name = name.removeprefix("val_")
    outputs = getattr(model, "output_names", None) or []
    # Of one of several outputs, the metric `accuracy` is logged as `<output>_accuracy`.
    prefixes = ["", *(f"{output}_" for output in outputs if len(outputs) > 1)]
    # Private, and the only place where Keras says it; its own callbacks read it too.
    told = {
        getattr(metric, "_direction", None)
        for metric in _compiled_metrics(getattr(model, "metrics", []))
        if name in [f"{prefix}{metric.name}" for prefix in prefixes]
    }
    if told == {"up"}:
        return "max"
    if told == {"down"} or name == "penalty" or name == "loss" or name.endswith("_loss"):
        return "min"
    return None


def _compiled_metrics(metrics: list[Any]) -> Iterator[Any]:
    for metric in metrics:
        inner = getattr(metric, "metrics", None)
        if inner:
            yield from _compiled_metrics(inner)
        else:
            yield metric
