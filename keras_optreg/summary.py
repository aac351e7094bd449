"""Which weight gets what: one table of rates, decays and penalties for a model and its optimizer."""

import math
from typing import Any

from keras_optreg.introspection import inner_optimizer, shown
from keras_optreg.optimizers.weight_decay import FullyDecoupled
from keras_optreg.regularizers.owners import owners_of
from keras_optreg.select import path_of
from keras_optreg.table import Table


def summary(model: Any) -> Table:
    """What every weight of a compiled model gets: rate, decay, penalties, frozen or not.

    When to use it: before a long run, to see that selectors name what you mean and that no weight shrinks twice.

    Args:
        model: a built and compiled Keras model. With an optimizer of Keras, which has no multipliers or penalties of
            its own, the columns show what that optimizer does.

    Returns:
        A table with the columns `weight` (its path), `shape`, `learning_rate_x` (the multiplier; empty when frozen, or
        made trainable after the optimizer was built), `decay` (decoupled weight decay, empty for none), `penalty` (in
        the loss and in the update), `frozen`.

    Raises:
        ValueError: when the model is not built or not compiled.

    Example:
        >>> import keras
        >>> from keras import layers
        >>> from keras_optreg import select
        >>> from keras_optreg.optimizers import AdamW
        >>> inputs = keras.Input((3,))
        >>> model = keras.Model(inputs, layers.Dense(2, name="head")(inputs))
        >>> model.compile(AdamW(weight_decay_on=select.kernels()), "mse")
        >>> print(summary(model))
        weight       shape   learning rate x  decay  penalty  frozen
        head/kernel  (3, 2)  1                0.004  -        no
        head/bias    (2,)    1                -      -        no
        8 weights in 2 variables, 0 frozen
    """
    owners = owners_of(model, "summary")
    if getattr(model, "optimizer", None) is None:
        raise ValueError(
            "summary: the model is not compiled, and it is the optimizer that is shown. Call model.compile(...)."
        )
    trainable = {id(v): v for v in model.trainable_variables}
    treatment = _treatment(inner_optimizer(model), list(trainable.values()))
    rows = []
    for variable in (owner.variable for owner in owners if owner.is_parameter):
        is_frozen = id(variable) not in trainable
        multiplier, decay, acting = (None, None, []) if is_frozen else treatment.get(id(variable), (None, None, []))
        counts = not is_frozen and variable.regularizer is not None
        in_loss = [f"{shown(variable.regularizer)} in the loss"] if counts else []
        penalties = ", ".join(in_loss + acting) or None
        rows.append((path_of(variable), tuple(variable.shape), multiplier, decay, penalties, is_frozen))
    frozen = sum(row[-1] for row in rows)
    count = sum(math.prod(row[1]) for row in rows)
    footer = f"{count:,} weights in {len(rows)} variables, {frozen} frozen"
    unknown = trainable.keys() - treatment.keys()
    if unknown:
        footer += f"; {len(unknown)} made trainable after the optimizer was built: compile with a new optimizer"
    return Table(("weight", "shape", "learning_rate_x", "decay", "penalty", "frozen"), rows, footer)


def _treatment(optimizer: Any, trainable: list[Any]) -> dict[int, tuple[Any, Any, list[str]]]:
    """(multiplier, decay, penalties in the update) of the variables that the optimizer knows, by their identity."""
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    known = optimizer._trainable_variables if optimizer.built else trainable
    if hasattr(optimizer, "parts_of"):
        parts = optimizer.parts_of(known)
        return {key: value for part, its in parts for key, value in _treatment(part, its).items()}
    if hasattr(optimizer, "plan_for"):
        plan = optimizer.plan_for(known)
        decay = _shown_number(optimizer.weight_decay)
        return {
            id(v): (
                _shown_number(plan.multipliers[i]),
                decay if plan.decays[i] else None,
                [f"{penalty!r} in the update" for penalty in plan.penalties_of(i)],
            )
            for i, v in enumerate(known)
        }
    decay = optimizer.weight_decay
    return {id(v): (1, decay if decay is not None and optimizer._use_weight_decay(v) else None, []) for v in known}


def _shown_number(value: Any) -> Any:
    if callable(value):
        return repr(value) if isinstance(value, FullyDecoupled) else type(value).__name__
    return int(value) if value is not None and value == int(value) and value != 0 else value
