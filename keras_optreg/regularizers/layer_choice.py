"""Which layers? What `insert_dropout` and `attach_activity` take, where penalties on weights take selectors."""

import re
from collections.abc import Callable, Iterable, Sequence

import keras

Kinds = type[keras.Layer] | tuple[type[keras.Layer], ...]
Choice = Kinds | str | Iterable[keras.Layer | str] | Callable[[keras.Layer], bool]


def chosen(layers: Sequence[keras.Layer], choice: Choice, purpose: str, argument: str) -> list[keras.Layer]:
    """The layers of a class or classes, with a name in which a regular expression is found, listed, or approved.

    Raises:
        TypeError: when `choice` is none of these.
        ValueError: when a listed layer is not there.
    """
    if isinstance(choice, type) or (isinstance(choice, tuple) and choice and all(isinstance(c, type) for c in choice)):
        return [layer for layer in layers if isinstance(layer, choice)]  # pyright: ignore[reportArgumentType]
    if isinstance(choice, str):
        return [layer for layer in layers if re.search(choice, layer.name)]
    if isinstance(choice, list | tuple | set):
        unknown = [c for c in choice if not any(c is layer or c == layer.name for layer in layers)]
        if unknown:
            raise ValueError(f"{purpose}: {unknown!r} is not among the model's layers: {names(layers)}.")
        return [layer for layer in layers if any(c is layer or c == layer.name for c in choice)]
    if callable(choice):
        return [layer for layer in layers if choice(layer)]  # pyright: ignore[reportCallIssue]
    raise TypeError(
        f"The `{argument}` of {purpose} must be a layer class, a tuple of classes, a regular expression, a list of "
        f"layers or names, or a function of a layer. Received: {argument}={choice!r}"
    )


def names(layers: Sequence[keras.Layer]) -> str:
    """Some names, for messages."""
    return ", ".join(layer.name for layer in layers[:12]) + (f", … ({len(layers)} in all)" if len(layers) > 12 else "")
