"""The loss of the data and the penalties of the weights, apart."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_optreg.callbacks.probes.probe import Probe, stand_in
from keras_optreg.callbacks.probes.replicas import num_replicas

_PARTS = ("data_loss", "penalty")


class DataLoss(Probe):
    """The two parts of the loss: `data_loss` and `penalty`, for validation `val_data_loss` and `val_penalty`.

        loss = data_loss + penalty,        penalty = Σ regularizer(w), over the trainable weights

    Both are means over the batches, as Keras's `loss` is, taken inside the compiled step. Where a weight has a penalty
    they stand in the logs, the progress bar and the history too, so `EarlyStopping("val_data_loss")` works beside this
    probe; where none has, the data loss is the loss. What `add_loss` and activity regularizers add depends on the data
    and counts there. A penalty given to the optimizer is in neither, for it is not in the loss.

    A `train_step` of one's own is measured where it calls `compute_loss` and returns the results of all metrics of the
    model; where it returns something else, the two parts are not logged.

    Raises:
        ValueError: At the start of training, when the model logs a `data_loss` or `penalty` of its own.
    """

    def __init__(self):
        self._tap: _LossTap | None = None

    def start(self, model: Any) -> bool:
        if not _penalized(model):
            return False
        tap = _LossTap.on(model)
        tap.join()
        self._tap = tap
        return True

    def measure(self, model: Any, logs: Mapping[str, float]) -> dict[str, Any]:
        found = {}
        for prefix in ("", "val_"):
            if self._tap is not None:
                names = [f"{prefix}{part}" for part in _PARTS]
                found |= {name: logs[name] for name in names if name in logs}
            elif f"{prefix}loss" in logs:
                found |= {f"{prefix}data_loss": logs[f"{prefix}loss"], f"{prefix}penalty": 0.0}
        return found

    def stop(self, model: Any) -> None:
        if self._tap is not None:
            self._tap.leave()
            self._tap = None


def _penalized(model: Any) -> list[Any]:
    return [w for w in model.trainable_variables if getattr(w, "regularizer", None) is not None]


def _names_in_logs(model: Any) -> set[str]:
    """The names that the model itself logs, also those of metrics that Keras makes in the first step only."""
    names = {metric.name for metric in model.metrics}
    outputs = getattr(model, "output_names", None) or ()
    if len(outputs) > 1:  # a metric is logged as `<output>_<metric>` then
        return names | {f"{output}_loss" for output in outputs}
    compiled = model._compile_metrics
    if compiled is None:
        return names
    given = keras.tree.flatten([compiled._user_metrics, compiled._user_weighted_metrics])
    return names | {str(getattr(each, "name", None) or getattr(each, "__name__", each)) for each in given}


class _LossTap:
    """Stands in front of a model's `compute_loss` and feeds two metrics of the model; one for all probes."""

    def __init__(self, model: Any):
        self._model = model
        self._compute_loss = model.compute_loss
        self._listeners = 0
        self._metrics = [keras.metrics.Mean(name=part) for part in _PARTS]

    @classmethod
    def on(cls, model: Any) -> "_LossTap":
        tap = model.__dict__.get("compute_loss")
        return tap if isinstance(tap, cls) else cls(model)

    def join(self) -> None:
        if not self._listeners:
            if taken := sorted(_names_in_logs(self._model).intersection(_PARTS)):
                raise ValueError(
                    f"DataLoss logs {' and '.join(_PARTS)}, but the model logs a {taken[0]!r} of its own. Give that "
                    "metric (or output) another name, or leave out DataLoss (or TensorBoard, which has one)."
                )
            # In the model's private list of metrics, since a built model refuses new ones as attributes; from there
            # every backend carries their state through the step.
            self._put_back = stand_in(self._model, "compute_loss", self)
            self._model._metrics.extend(self._metrics)
        self._listeners += 1

    def leave(self) -> None:
        self._listeners -= 1
        if self._listeners == 0:
            self._put_back()
            kept = [m for m in self._model._metrics if not any(m is mine for mine in self._metrics)]
            self._model._metrics[:] = kept

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # What Keras adds to the loss is noted where it does so: computing it anew would read all weights once more.
        noted: list[list[Any]] = []
        compute = self._model._get_regularization_losses

        def noting() -> list[Any]:
            noted.append(compute())
            return noted[-1]

        put_back = stand_in(self._model, "_get_regularization_losses", noting)
        try:
            loss = self._compute_loss(*args, **kwargs)
        finally:
            put_back()
        penalties = noted[-1] if noted else [w.regularizer(w) for w in _penalized(self._model)]
        penalty = sum((ops.cast(each, "float32") for each in penalties), ops.zeros(()))
        # The weight of a batch in the mean is its size, as in Keras's own mean of the loss. A `train_step` of one's own
        # need not pass x; what it passes is as long.
        batches = [each for each in keras.tree.flatten([args, list(kwargs.values())]) if getattr(each, "ndim", None)]
        examples = ops.shape(batches[0])[0] if batches else 1
        # Under `tf.distribute` Keras divides the loss by the replicas, so that their sum is the loss of the batch.
        data_loss = ops.cast(loss, "float32") * num_replicas() - penalty
        for metric, value in zip(self._metrics, (data_loss, penalty), strict=True):
            metric.update_state(ops.stop_gradient(value), sample_weight=examples)
        return loss
