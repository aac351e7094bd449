"""The loss of the data and the penalties of the weights, apart."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_optreg.callbacks.probes.probe import Probe
from keras_optreg.callbacks.probes.replicas import num_replicas


class DataLoss(Probe):
    """The two parts of the loss: `data_loss` and `penalty`, for validation `val_data_loss` and `val_penalty`.

        loss = data_loss + penalty,        penalty = Σ regularizer(w), over the trainable weights

    Both are means over the batches, as Keras's `loss` is, taken inside the compiled step. Where a weight has a penalty
    they stand in the logs, the progress bar and the history too, so `EarlyStopping("val_data_loss")` works beside this
    probe; where none has, the data loss is the loss. What `add_loss` and activity regularizers add depends on the data
    and counts there. A penalty given to the optimizer is in neither, for it is not in the loss.
    """

    def __init__(self):
        self._joined = False

    def start(self, model: Any) -> bool:
        self._joined = bool(_penalized(model))
        return self._joined and _LossTap.on(model).join()

    def measure(self, model: Any, logs: Mapping[str, float]) -> dict[str, Any]:
        found = {}
        for prefix in ("", "val_"):
            if f"{prefix}data_loss" in logs:
                found |= {f"{prefix}{part}": logs[f"{prefix}{part}"] for part in ("data_loss", "penalty")}
            elif f"{prefix}loss" in logs:
                found |= {f"{prefix}data_loss": logs[f"{prefix}loss"], f"{prefix}penalty": 0.0}
        return found

    def stop(self, model: Any) -> None:
        if self._joined:
            _LossTap.on(model).leave()
            self._joined = False


def _penalized(model: Any) -> list[Any]:
    return [w for w in model.trainable_variables if getattr(w, "regularizer", None) is not None]


class _LossTap:
    """Stands in front of a model's `compute_loss` and feeds two metrics of the model; one for all probes."""

    def __init__(self, model: Any):
        self._model = model
        self._compute_loss = model.compute_loss
        self._listeners = 0
        self._metrics = [keras.metrics.Mean(name="data_loss"), keras.metrics.Mean(name="penalty")]

    @classmethod
    def on(cls, model: Any) -> "_LossTap":
        tap = model.__dict__.get("compute_loss")
        return tap if isinstance(tap, cls) else cls(model)

    def join(self) -> bool:
        self._listeners += 1
        if self._listeners > 1:
            return False
        # In `__dict__`, past `__setattr__`, which would track it. And in the model's private list of metrics, since a
        # built model refuses new ones as attributes; from there every backend carries their state through the step.
        self._model.__dict__["compute_loss"] = self
        self._model._metrics.extend(self._metrics)
        return True

    def leave(self) -> None:
        self._listeners -= 1
        if self._listeners == 0:
            del self._model.__dict__["compute_loss"]
            kept = [m for m in self._model._metrics if not any(m is mine for mine in self._metrics)]
            self._model._metrics[:] = kept

    def __call__(self, x=None, y=None, y_pred=None, sample_weight=None, **kwargs: Any) -> Any:
        loss = self._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, **kwargs)
        penalties = [ops.cast(w.regularizer(w), "float32") for w in _penalized(self._model)]
        penalty = sum(penalties, ops.zeros(()))
        # The weight of a batch in the mean is its size, as in Keras's own mean of the loss.
        examples = ops.shape(next(leaf for leaf in keras.tree.flatten(x) if leaf is not None))[0]
        # Under `tf.distribute` Keras divides the loss by the replicas, so that their sum is the loss of the batch.
        data_loss = ops.cast(loss, "float32") * num_replicas() - penalty
        for metric, value in zip(self._metrics, (data_loss, penalty), strict=True):
            metric.update_state(ops.stop_gradient(value), sample_weight=examples)
        return loss
