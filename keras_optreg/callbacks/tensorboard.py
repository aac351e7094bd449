"""A run as TensorBoard shows it."""

from pathlib import Path
from typing import Any

import keras

from keras_optreg.callbacks.monitor import Monitor
from keras_optreg.callbacks.probes import (
    DataLoss,
    GradientNorm,
    LearningRate,
    TrainValidationGap,
    UpdateRatio,
    WeightNorm,
    Weights,
)
from keras_optreg.callbacks.writers import TensorBoardWriter


class TensorBoard(keras.callbacks.Callback):
    """Logs a training for TensorBoard: useful with no other argument, and without TensorFlow.

    In the runs `train` and `validation`, so that their curves lie in one chart:

    - per epoch, under the tags of Keras's own callback: `epoch_loss`, `epoch_<metric>`, `epoch_learning_rate`, and
      besides `epoch_data_loss` and `epoch_penalty` (the two parts of the loss), `epoch_gap_<metric>` (how much worse on
      validation data). The first epoch is 0, as in Keras; a second `fit` with the same callback goes on counting;
    - per update: `learning_rate`;
    - every `norms_every` updates: `gradient_norm`, `weight_norm` and `update_ratio`, of all weights and of each;
    - with `histograms`, per epoch and weight: `weights/<path>`.

    It is made of `Monitor`s; for other measures or intervals, put a `Monitor` with a `TensorBoardWriter` beside it.

    Args:
        log_dir: The directory of the run. `tensorboard --logdir <its parent>` shows several beside each other.
        every: Updates between two points of the learning rate.
        norms_every: Updates between two measurements of norms; 0 for none.
        histograms: Write histograms of the weights.

    Raises:
        OSError: Before training starts, when the directory cannot be written.
        ValueError: When an interval is not a number of steps.

    Example:
        ```python
        model.fit(x, y, validation_split=0.1, epochs=20, callbacks=[TensorBoard("logs/run1")])
        # in a shell: tensorboard --logdir logs
        ```
    """

    def __init__(self, log_dir: str | Path = "logs", every: int = 1, norms_every: int = 10, histograms: bool = False):
        super().__init__()
        self.log_dir = Path(log_dir)
        train, validation = TensorBoardWriter(self.log_dir / "train"), TensorBoardWriter(self.log_dir / "validation")
        self.writers = [train, validation]
        self._epoch_probes = [LearningRate(), TrainValidationGap()]
        self._monitors = [Monitor([LearningRate()], [train], every)]
        if norms_every:
            self._monitors.append(Monitor([GradientNorm(), WeightNorm(), UpdateRatio()], [train], norms_every))
        self._data_loss = DataLoss()  # its monitor only starts and stops it: its numbers are written with the epoch's
        self._monitors.append(Monitor([self._data_loss], []))
        if histograms:
            self._monitors.append(Monitor([Weights()], [train]))
        self._next_epoch = 0

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
        for part in (*self.writers, *self._monitors):
            part.open() if isinstance(part, TensorBoardWriter) else part.on_train_begin(logs)

    def on_epoch_begin(self, epoch, logs=None):
        if self._offset is None:
            self._offset = max(self._next_epoch - epoch, 0)
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
        logs = {**self._data_loss.measure(model, logs or {}), **(logs or {})}
        train = {name: float(value) for name, value in logs.items() if not name.startswith("val_")}
        validation = {name.removeprefix("val_"): float(logs[name]) for name in logs if name.startswith("val_")}
        for probe in self._epoch_probes:
            train |= {
                name: float(keras.ops.convert_to_numpy(value)) for name, value in probe.measure(model, logs).items()
            }
        number = epoch + self._offset
        self._next_epoch = number + 1
        for writer, values in zip(self.writers, (train, validation), strict=True):
            if values:
                writer.write(number, {f"epoch_{name}": value for name, value in values.items()})
            writer.flush()

    def on_train_end(self, logs=None):
        for part in (*self._monitors, *self.writers):
            part.close() if isinstance(part, TensorBoardWriter) else part.on_train_end(logs)
