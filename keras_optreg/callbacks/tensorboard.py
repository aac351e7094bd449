"""A run as TensorBoard shows it."""

from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_optreg.callbacks.actions.action import outcomes_of
from keras_optreg.callbacks.direction import direction
from keras_optreg.callbacks.monitor import Monitor, host, start
from keras_optreg.callbacks.probes import (
    DataLoss,
    GradientNorm,
    LearningRate,
    TrainValidationGap,
    UpdateRatio,
    WeightNorm,
    Weights,
)
from keras_optreg.callbacks.run_description import hyperparameters, optimizer_table, weights_table
from keras_optreg.callbacks.writers import TensorBoardWriter
from keras_optreg.callbacks.writers.writer import scalars

LAYOUT = {
    "fit": {
        "loss": [r"^epoch_loss$"],
        "metrics": [r"^epoch_(?!(loss|data_loss|penalty|learning_rate)$|learning_rate_|gap_)"],
        "how much worse on validation data": [r"^epoch_gap_"],
        "data loss and penalty": [r"^epoch_(data_loss|penalty)$"],
    },
    "steps": {
        "learning rate": [r"^learning_rate"],
        "gradient norm": [r"^gradient_norm$"],
        "weight norm": [r"^weight_norm$"],
        "update ratio": [r"^update_ratio$"],
    },
    "weight by weight": {
        "gradient norm": [r"^gradient_norm/"],
        "weight norm": [r"^weight_norm/"],
        "update ratio": [r"^update_ratio/"],
    },
}
"""The charts of the tab CUSTOM SCALARS; the same for all runs, since TensorBoard puts those of all runs together."""


class TensorBoard(keras.callbacks.Callback):
    """Logs a training for TensorBoard: useful with no other argument, and without TensorFlow.

    In the runs `train` and `validation`, so that their curves lie in one chart:

    - per epoch, under the tags of Keras's own callback: `epoch_loss`, `epoch_<metric>`, `epoch_learning_rate`, and
      besides `epoch_data_loss` and `epoch_penalty` (the two parts of the loss), `epoch_gap_<metric>` (how much worse on
      validation data). The first epoch is 0, as in Keras; a second `fit` with the same callback goes on counting;
    - per update: `learning_rate`;
    - every `norms_every` updates: `gradient_norm`, `weight_norm` and `update_ratio`, of all weights and of each;
    - with `histograms`, per epoch and weight: `weights/<path>`.

    And for the run as a whole: the charts of CUSTOM SCALARS, in order; as TEXT the weights with their penalties, the
    optimizer, and under `events` what came of the actions of the fit, such as why training stopped; in HPARAMS the
    optimizer, its rate, decay and schedule, the penalties, epochs, steps an epoch and number of weights, and what
    `hparams` adds, with the last value of each metric.

    It is made of `Monitor`s; for other measures or intervals, put a `Monitor` with a `TensorBoardWriter` beside it.

    Args:
        log_dir: The directory of the run. `tensorboard --logdir <its parent>` shows several beside each other.
        every: Updates between two points of the learning rate.
        norms_every: Updates between two measurements of norms; 0 for none.
        histograms: Write histograms of the weights.
        hparams: What else the run was made with, by name: numbers, strings, booleans. All runs should name the same.

    Raises:
        OSError: Before training starts, when the directory cannot be written.
        TypeError: For hyper-parameters of another kind.
        ValueError: When an interval is not a number of steps.

    Example:
        ```python
        stopping = EarlyStopping("val_loss", patience=3)
        board = TensorBoard("logs/run1", hparams={"batch_size": 32})
        model.fit(x, y, validation_split=0.1, epochs=20, callbacks=[stopping, board])
        # in a shell: tensorboard --logdir logs
        ```
    """

    def __init__(
        self,
        log_dir: str | Path = "logs",
        every: int = 1,
        norms_every: int = 10,
        histograms: bool = False,
        hparams: Mapping[str, float | str | bool] | None = None,
    ):
        super().__init__()
        for name, value in (hparams or {}).items():
            if not isinstance(value, Real | str | np.bool_):
                raise TypeError(
                    "TensorBoard takes numbers, strings and booleans as `hparams`. "
                    f"Received: hparams[{name!r}]={value!r}; write it as text, perhaps: str(...)."
                )
        self.log_dir = Path(log_dir)
        self.hparams = dict(hparams or {})
        train, validation = TensorBoardWriter(self.log_dir / "train"), TensorBoardWriter(self.log_dir / "validation")
        self._run = TensorBoardWriter(self.log_dir)
        self.writers = [train, validation, self._run]
        self._epoch_probes = [LearningRate(), TrainValidationGap()]
        self._monitors = [Monitor([LearningRate()], [train], every)]
        if norms_every:
            self._monitors.append(Monitor([GradientNorm(), WeightNorm(), UpdateRatio()], [train], norms_every))
        self._data_loss = DataLoss()  # its monitor only starts and stops it: its numbers are written with the epoch's
        self._monitors.append(Monitor([self._data_loss], []))
        if histograms:
            self._monitors.append(Monitor([Weights()], [train]))
        self._next_epoch = 0
        self._is_described = False
        self._judged_by: set[str] = set()

    def set_params(self, params: Any) -> None:
        super().set_params(params)
        for monitor in self._monitors:
            monitor.set_params(params)

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        for monitor in self._monitors:
            monitor.set_model(model)

    def on_train_begin(self, logs=None):
        self._offset: int | None = None
        for writer in self.writers:
            writer.open()
        for monitor in self._monitors:
            monitor.on_train_begin(logs)

    def on_epoch_begin(self, epoch, logs=None):
        if self._offset is None:
            self._offset = max(self._next_epoch - epoch, 0)
            start(self.writers, self.model, epoch)
            if self.model.built:
                self._describe(self.model)
        for monitor in self._monitors:
            monitor.on_epoch_begin(epoch, logs)

    def on_train_batch_begin(self, batch, logs=None):
        for monitor in self._monitors:
            monitor.on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        for monitor in self._monitors:
            monitor.on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        for monitor in self._monitors:
            monitor.on_epoch_end(epoch, logs)
        model = self.model
        # A metric may be an array.
        logged = dict(scalars({name: host(value) for name, value in (logs or {}).items()}))
        logs = {**self._data_loss.measure(model, logged), **logged}
        train = {name: value for name, value in logs.items() if not name.startswith("val_")}
        validation = {name.removeprefix("val_"): logs[name] for name in logs if name.startswith("val_")}
        judged = [name for name in train if name in validation or direction(model, name)]
        metrics = [f"validation/epoch_{name}" for name in validation] + [f"train/epoch_{name}" for name in judged]
        for probe in self._epoch_probes:
            train |= dict(scalars({name: host(value) for name, value in probe.measure(model, logs).items()}))
        number = epoch + self._offset
        self._next_epoch = number + 1
        for writer, values in zip(self.writers, (train, validation), strict=False):
            if values:
                writer.write(number, {f"epoch_{name}": value for name, value in values.items()})
        self._describe(model)
        if not self._judged_by >= set(metrics):  # which there are is known now; under `validation_freq`, later
            self._judged_by |= set(metrics)
            self._run.write_hyperparameters({**self._hyperparameters, **self.hparams}, metrics)
        for writer in self.writers:
            writer.flush()

    def on_train_end(self, logs=None):
        for name, sentence in outcomes_of(self.model).items():
            self._run.write_text(max(self._next_epoch - 1, 0), f"events/{name}", sentence)
        for part in (*self._monitors, *self.writers):
            part.close() if isinstance(part, TensorBoardWriter) else part.on_train_end(logs)

    def _describe(self, model: Any) -> None:
        """What stands before the first epoch ends, and once."""
        if self._is_described:
            return
        self._is_described = True
        self._hyperparameters = hyperparameters(model, self.params)
        self._run.write_layout(LAYOUT)
        self._run.write_text(0, "model", weights_table(model).markdown())
        self._run.write_text(0, "optimizer", optimizer_table(model).markdown())
        self._run.flush()
