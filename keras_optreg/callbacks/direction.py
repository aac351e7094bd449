"""Is more of a logged number better, or less?"""

from collections.abc import Iterator
from typing import Any, Literal


def direction(model: Any, name: str) -> Literal["min", "max"] | None:
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
