"""The form in which Keras saves penalties and models: is there one, are two the same, does it name this package?"""

from typing import Any

from keras_optreg.saving import deserialize, serialize


def is_serializable(penalty: Any) -> bool:
    """Whether Keras can save the penalty and make it again in this process."""
    try:
        again = deserialize(serialize(penalty))
    except (NotImplementedError, TypeError, ValueError):
        return False
    return type(again) is type(penalty)


def same_penalty(one: Any, other: Any) -> bool:
    """Whether two penalties are the same object or have the same saved form."""
    if one is other:
        return True
    if hasattr(one, "origin") and hasattr(other, "origin"):  # each starts from weights of its own
        return False
    one, other = getattr(one, "origin", one), getattr(other, "origin", other)
    parts = getattr(one, "penalties", ()), getattr(other, "penalties", ())
    if all(parts) and type(one) is type(other):
        return len(parts[0]) == len(parts[1]) and all(map(same_penalty, *parts))
    if one is None or other is None or type(one) is not type(other) or not is_serializable(one):
        return False
    return serialize(one) == serialize(other)


def needs_package(model: Any) -> str:
    """A sentence where the optimizer, which is saved with the model, is one of this package; empty otherwise."""
    if "keras_optreg" not in str(serialize(getattr(model, "optimizer", None))):
        return ""
    return (
        "The optimizer is saved with the model and needs keras_optreg: compile with one of Keras's own, or load with "
        "load_model(path, compile=False)."
    )
