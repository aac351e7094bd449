"""What a run is made with: its weights, its optimizer, and the numbers it may be compared by."""

import json
from collections.abc import Mapping
from math import prod
from typing import Any

import keras

from keras_optreg.introspection import inner_optimizer, penalties_of, shown
from keras_optreg.saving import without_tensorflow
from keras_optreg.select import path_of
from keras_optreg.table import Table


def weights_table(model: Any) -> Table:
    """Each weight with its shape, whether it is trained, and its penalty in the loss with the value it has now."""
    trainable = {id(w) for w in model.trainable_variables}
    rows = []
    for w in model.weights:
        penalty = getattr(w, "regularizer", None) if id(w) in trainable else None
        value = None if penalty is None else float(keras.ops.convert_to_numpy(penalty(w)))
        rows.append((path_of(w), "×".join(map(str, w.shape)) or "1", id(w) in trainable, penalty, value))
    total = sum(row[-1] or 0.0 for row in rows)
    count = sum(prod(w.shape) for w in model.trainable_variables)
    footer = f"{count:,} numbers are trained; penalties in the loss add up to {total:.4g}"
    return Table(("weight", "shape", "trained", "penalty", "its_value"), rows, footer)


def optimizer_table(model: Any) -> Table:
    """The arguments of the optimizer."""
    config = {"class": type(model.optimizer).__name__, **_config(model.optimizer)}
    return Table(("argument", "value"), [(name, _text(value)) for name, value in config.items()])


def hyperparameters(model: Any, params: Mapping[str, Any]) -> dict[str, float | str | bool]:
    """Optimizer, rate at the start, schedule, decay, penalties, epochs, steps an epoch, number of weights."""
    optimizer = inner_optimizer(model)
    config = _config(optimizer)
    found: dict[str, Any] = {"optimizer": type(optimizer).__name__}
    if "learning_rate" in config:
        rate = config["learning_rate"]
        found["learning_rate"] = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
        found["schedule"] = rate["class_name"] if isinstance(rate, dict) else "none"
    if isinstance(decay := config.get("weight_decay"), int | float):
        found["weight_decay"] = float(decay)
    in_loss = [w.regularizer for w in model.trainable_variables if getattr(w, "regularizer", None) is not None]
    others = [penalty for penalty, _ in penalties_of(model)]
    found["penalties"] = ", ".join(sorted({shown(penalty) for penalty in [*in_loss, *others]})) or "none"
    found["epochs"] = params["epochs"]
    if params.get("steps") is not None:  # unknown for a generator
        found["steps"] = params["steps"]
    found["weights"] = sum(prod(w.shape) for w in model.trainable_variables)
    return found


def _config(optimizer: Any) -> dict[str, Any]:
    try:
        with without_tensorflow():
            config = optimizer.get_config()
        return {name: value for name, value in config.items() if name != "built_with"}
    except (AttributeError, NotImplementedError, TypeError, ValueError):  # a schedule that cannot be saved, perhaps
        return {}


def _text(value: Any) -> str:
    return str(value) if isinstance(value, int | float | str) or value is None else json.dumps(value, default=str)
