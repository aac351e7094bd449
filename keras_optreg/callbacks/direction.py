"""Is more of a logged number better, or less?"""

from collections.abc import Iterator
from typing import Any, Literal


def direction(model: Any, name: str) -> Literal["min", "max"] | None:
    """`"min"` or `"max"`, or `None` when nothing says which; `val_` in front of the name does not matter.

    Losses and penalties are to be small; a compiled metric says itself.
    """
    name = name.removeprefix("val_")
    if name == "penalty" or name == "loss" or name.endswith("_loss"):
        return "min"
    for metric in _compiled_metrics(getattr(model, "metrics", [])):
        # Several outputs: the metric `accuracy` is logged as `<output>_accuracy`.
        if name == metric.name or name.endswith(f"_{metric.name}"):
            # Private, and the only place where Keras says it; its own callbacks read it too.
            found = getattr(metric, "_direction", None)
            return {"up": "max", "down": "min"}.get(found)  # type: ignore[return-value]
    return None


def _compiled_metrics(metrics: list[Any]) -> Iterator[Any]:
    for metric in metrics:
        inner = getattr(metric, "metrics", None)
        if inner:
            yield from _compiled_metrics(inner)
        else:
            yield metric
