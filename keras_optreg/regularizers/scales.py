"""The scales in which textbooks write the same penalty, and the two names of its number."""

from keras_optreg import bounds


def strength_of(owner: str, strength: float | None, keras_name: str, keras_value: float | None) -> float:
    """The one strength given, as `strength` or under Keras's name for it; Keras's default 0.01 when none was."""
    if strength is not None and keras_value is not None:
        raise TypeError(
            f"{owner} takes its strength as `strength` or as `{keras_name}` (Keras's name for it), not both."
        )
    given = keras_value if strength is None else strength
    return 0.01 if given is None else given


def per_example_factor(owner: str, num_examples: float) -> float:
    """1/(2m) for m training examples."""
    bounds.check(f"{owner}.per_example", {"num_examples": num_examples}, {"num_examples": bounds.POSITIVE})
    return 1 / (2 * float(num_examples))
