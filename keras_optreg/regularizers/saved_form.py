"""The form in which Keras saves a penalty: does it have one, and do two penalties have the same?"""

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
    if one is None or other is None or type(one) is not type(other) or not is_serializable(one):
        return False
    return serialize(one) == serialize(other)
