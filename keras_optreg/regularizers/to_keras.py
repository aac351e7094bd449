"""Put Keras's own regularizers in place of this package's, so that a saved model needs Keras alone."""

from typing import Any

import keras

from keras_optreg.regularizers.l1 import L1
from keras_optreg.regularizers.l1_l2 import L1L2
from keras_optreg.regularizers.l2 import L2
from keras_optreg.regularizers.owners import attributes_of, owners_of
from keras_optreg.regularizers.penalty_regularizer import PenaltyRegularizer
from keras_optreg.regularizers.saved_form import needs_package
from keras_optreg.regularizers.sum import Sum
from keras_optreg.select import path_of
from keras_optreg.table import Table


def to_keras(model: Any) -> Table:
    """Replaces `L1`, `L2`, `L1L2` and their sums by Keras's own equal classes, on weights and on layers.

    Before `model.save`, for a file that loads where this package is not installed. The loss stays the same. A compiled
    model saves its optimizer too, and Keras ignores `include_optimizer=False` for a `.keras` file: with an optimizer of
    this package, compile with one of Keras's own before saving, or load with `load_model(path, compile=False)`.

    Args:
        model: a built Keras model; it is changed in place.

    Returns:
        A table of what was replaced: `path` (of a weight, or of a layer's argument), `penalty` and `now`; the footer
        tells when the optimizer still needs this package.

    Raises:
        ValueError: when a penalty has no equal in Keras; the message lists where. The model is then unchanged.

    Example:
        >>> from keras_optreg.regularizers import L2
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, kernel_regularizer=L2(0.5))])
        >>> type(to_keras(model)[0].now).__module__.split(".")[0]
        'keras'
    """
    weights = [(path_of(o.variable), o.variable, "regularizer") for o in owners_of(model, "to_keras")]
    layers = [(f"{layer.name}.{name}", layer, name) for layer, name in attributes_of(model, PenaltyRegularizer)]
    rows, impossible = [], []
    equals: dict[int, Any] = {}  # one object stays one object
    for path, holder, attribute in [*weights, *layers]:
        penalty = getattr(holder, attribute)
        if isinstance(penalty, PenaltyRegularizer):
            equal = equals.setdefault(id(penalty), keras_equal(penalty))
            rows.append((path, penalty, equal, holder, attribute))
            if equal is None:
                impossible.append(f"{path} ({penalty!r})")
    if impossible:
        raise ValueError(
            f"to_keras: Keras has no equal of the penalties on {', '.join(impossible)}. Take them away with "
            f"detach(model, on=...), or replace them with attach(..., existing='replace'). Nothing was changed."
        )
    for _, _, equal, holder, attribute in rows:
        setattr(holder, attribute, equal)
    return Table(("path", "penalty", "now"), [row[:3] for row in rows], needs_package(model))


def keras_equal(penalty: Any) -> keras.regularizers.Regularizer | None:
    """The object of Keras's own with the same formula, or None."""
    if type(penalty) is L1:
        return keras.regularizers.L1(penalty.strength)
    if type(penalty) is L2:
        return keras.regularizers.L2(penalty.strength)
    strengths = _l1_and_l2(penalty)
    return None if strengths is None else keras.regularizers.L1L2(*strengths)


def _l1_and_l2(penalty: Any) -> tuple[float, float] | None:
    """λ₁ and λ₂ of a penalty of the form λ₁Σ|w| + λ₂Σw²; None for any other."""
    if type(penalty) in (L1, keras.regularizers.L1):
        return float(penalty.l1), 0.0
    if type(penalty) in (L2, keras.regularizers.L2):
        return 0.0, float(penalty.l2)
    if type(penalty) in (L1L2, keras.regularizers.L1L2):
        return float(penalty.l1), float(penalty.l2)
    if type(penalty) is Sum:
        parts = [_l1_and_l2(part) for part in penalty.penalties]
        found = [part for part in parts if part is not None]
        return (sum(p[0] for p in found), sum(p[1] for p in found)) if len(found) == len(parts) else None
    return None
