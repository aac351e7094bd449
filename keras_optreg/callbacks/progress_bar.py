"""A progress bar that shows what one looks at."""

import time
from typing import Any, TextIO

import keras
import numpy as np

from keras_optreg.bounds import NON_NEGATIVE, check
from keras_optreg.introspection import learning_rates


class ProgressBar(keras.callbacks.Callback):
    """Shows the training: steps, losses and metrics, learning rate, and the time that is left.

    A line for each epoch, and in a terminal or notebook a live bar below them; a log file gets the lines alone. Pass
    `verbose=0` to `fit`, so that Keras shows none of its own.

        epoch 3/20  469 steps in 4.1 s  loss 0.2817  accuracy 0.918  val_loss 0.3101  learning_rate 0.001

    Args:
        refresh: seconds between two looks at the numbers, >= 0. Each look waits for the step; on JAX it also brings the
            model's state to the host.
        stream: where to; standard output when None.

    Raises:
        ValueError: when `refresh` is negative.

    Example:
        ```python
        model.fit(x, y, epochs=20, verbose=0, callbacks=[kor.callbacks.ProgressBar()])
        ```
    """

    def __init__(self, refresh: float = 0.25, stream: TextIO | None = None):
        check("ProgressBar", {"refresh": refresh}, {"refresh": NON_NEGATIVE})
        super().__init__()
        self.refresh = refresh
        self.stream = stream
        self._bar: Any = None

    def on_train_begin(self, logs=None):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._close()  # that of a training which was interrupted
        self._console = Console(file=self.stream, soft_wrap=True, highlight=False, markup=False)
        if self._console.is_terminal or self._console.is_jupyter:
            name, numbers = TextColumn("{task.description}"), TextColumn("{task.fields[numbers]}")
            columns = (name, BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn(), numbers)
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("", total=None, numbers="")
            self._bar.start()

    def on_epoch_begin(self, epoch, logs=None):
        self._name = f"epoch {epoch + 1}/{self.params.get('epochs', '?')}"
        self._steps, self._begun, self._seen = 0, time.monotonic(), 0.0
        if self._bar is not None:
            self._bar.reset(self._task, total=self.params.get("steps"), description=self._name, numbers="")

    def on_train_batch_end(self, batch, logs=None):
        self._steps = batch + 1
        now = time.monotonic()
        if self._bar is not None and now - self._seen >= self.refresh:
            self._seen = now
            self._bar.update(self._task, completed=self._steps, numbers=self._numbers(logs))

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.monotonic() - self._begun
        self._console.print(f"{self._name}  {self._steps} steps in {seconds:.3g} s  {self._numbers(logs)}")

    def on_train_end(self, logs=None):
        self._close()

    def _numbers(self, logs: Any) -> str:
        logs = logs or {}
        rates = learning_rates(self.model)
        numbers = {name: value for name, value in logs.items() if name not in rates} | rates
        numbers |= {name: value for name, value in logs.items() if name in rates}  # theirs, but last
        shown = {name: keras.ops.convert_to_numpy(value) for name, value in numbers.items()}
        return "  ".join(f"{name} {float(value):.4g}" for name, value in shown.items() if np.ndim(value) == 0)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
