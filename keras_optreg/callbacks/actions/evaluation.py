"""Evaluate within an epoch, so that training goes on as if nothing had happened."""

from typing import Any

import keras
import numpy as np


def evaluated(model: Any, data: Any, batch_size: int | None = None) -> dict[str, float]:
    """The logs of `model.evaluate` on `data`, as `val_<name>`. Nothing is different afterwards.

    `evaluate` shares the metrics with the epoch that is running, and would leave its own sums in them; it may move
    seeds and other state of layers, and on torch it leaves modules in evaluation.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    before = [(v, np.array(keras.ops.convert_to_numpy(v))) for v in _state(model)]
    was_training = getattr(model, "training", None) if keras.backend.backend() == "torch" else None
    try:
        logs = model.evaluate(x, y, sample_weight=sample_weight, batch_size=batch_size, verbose=0, return_dict=True)
    finally:
        for variable, value in before:
            variable.assign(value)
        if was_training is not None:
            model.train(was_training)
    return {f"val_{name}": value for name, value in logs.items()}


def _state(model: Any) -> list[Any]:
    return [*model.non_trainable_variables, *model.metrics_variables]
