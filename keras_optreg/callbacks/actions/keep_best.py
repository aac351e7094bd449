"""Keep the files of the best epochs."""

import os
from pathlib import Path
from string import Formatter
from typing import Any

from keras_optreg.bounds import POSITIVE_COUNT, check
from keras_optreg.callbacks.actions.monitored import Monitored
from keras_optreg.callbacks.direction import is_better

WHOLE, WEIGHTS = ".keras", ".weights.h5"


class KeepBest(Monitored):
    """Saves the model after each epoch that is among the k best so far, and deletes what is no longer.

    When to use it: to choose among a few good epochs later, or average them, with no more than k files;
    `keras.callbacks.ModelCheckpoint` keeps the last or the best one, or all. List it after callbacks that put other
    weights into the model at the end of an epoch (`EvaluateAtAverage`, `MagnitudePruning`).

    Of equal values the earlier epoch is better. NaN and infinite values are never saved. A file is written beside its
    place and then renamed: what stands under a name is always whole. `kept` goes on from fit to fit of one callback, as
    the best of Keras's `ModelCheckpoint`, and with `load_state_dict` in another process. Files that another wrote are
    left alone, but for one of the very name that is to be written.

    Args:
        filepath: Where to: `"best.keras"`, `"runs/{epoch:02d}-{val_loss:.4f}.keras"`, with the names in the logs and
            the epoch, counted from 1, as in Keras's `ModelCheckpoint`. `.keras` for whole models, `.weights.h5` for
            weights alone. With k above 1 it must tell epochs from each other: with `{epoch}`.
        k: Files to keep.
        monitor: A name in the logs: `"val_loss"`, `"val_accuracy"`, `"loss"`, ...
        mode: `"min"`, `"max"`, or `"auto"`: losses and what Keras's metrics say about themselves.
        verbose: 1 prints what is saved and deleted.
        start_from_epoch: Epochs, from 0, before which nothing is saved.

    Attributes:
        kept: A dict for each file, the best first, with its `path`, `value` and `epoch`, from 0.
        best_path: The path of the best one; None before there is one.

    Raises:
        ValueError: For another kind of file, a k that is no count, a k above 1 without `{epoch}`; at the first epoch's
            end, when `monitor`, or a name in `filepath`, is not in the logs, or the direction is unknown.

    Example:
        ```python
        keep = KeepBest("runs/{epoch:02d}-{val_loss:.4f}.keras", k=3)
        model.fit(x, y, validation_split=0.1, epochs=100, callbacks=[keep])
        best = keras.saving.load_model(keep.best_path)
        ```
    """

    state = ("kept", "_seen")

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        k: int = 1,
        monitor: str = "val_loss",
        mode: str = "auto",
        verbose: int = 0,
        start_from_epoch: int = 0,
    ):
        self.filepath = os.fspath(filepath)
        check("KeepBest", {"k": k}, {"k": POSITIVE_COUNT})
        if not self.filepath.endswith((WHOLE, WEIGHTS)):
            raise ValueError(
                f"The `filepath` of KeepBest ends in {WHOLE} (whole models) or {WEIGHTS} (weights alone). "
                f"Received: filepath={self.filepath!r}"
            )
        if k > 1 and "epoch" not in {field for _, field, _, _ in Formatter().parse(self.filepath)}:
            raise ValueError(
                f"KeepBest with k={k} needs a name for each epoch, such as 'best-{{epoch:02d}}.keras'. "
                f"Received: filepath={self.filepath!r}"
            )
        self.k = k
        super().__init__(monitor, mode, verbose, start_from_epoch=start_from_epoch)

    def reset(self) -> None:
        super().reset()
        self.kept: list[dict[str, Any]] = self.__dict__.get("kept", [])  # a second fit must beat the first

    @property
    def best_path(self) -> str | None:
        return self.kept[0]["path"] if self.kept else None

    def outcome(self) -> str | None:
        files = ", ".join(f"{one['path']} ({self.monitor} {one['value']:.4g})" for one in self.kept)
        return f"kept {files}" if files else None

    def on_epoch_end(self, epoch, logs=None):
        value = self._value(epoch, logs or {})
        if value is None or not is_better(value, None, self._direction()):
            return
        place = sum(not self._improves(value, one["value"]) for one in self.kept)
        if place >= self.k:
            return
        path = self._path(epoch, logs or {})
        self._save(path)
        kept = [one for one in self.kept if one["path"] != path]  # the same name again: it stands there no more
        kept.insert(place, {"path": path, "value": value, "epoch": epoch})
        self.kept, dropped = kept[: self.k], kept[self.k :]
        self._say(f"Epoch {epoch + 1}: {self.monitor} {value:.4g}, saved {path}.")
        for one in dropped:
            Path(one["path"]).unlink(missing_ok=True)
            self._say(f"Epoch {epoch + 1}: deleted {one['path']}.")

    def _path(self, epoch: int, logs: dict[str, Any]) -> str:
        try:
            return self.filepath.format(**{**logs, "epoch": epoch + 1})
        except KeyError as error:
            raise ValueError(
                f"KeepBest cannot make a file name of {self.filepath!r}: {error} is not in the logs. "
                f"There are: epoch, {', '.join(logs)}."
            ) from None

    def _save(self, path: str) -> None:
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        kind = WHOLE if path.endswith(WHOLE) else WEIGHTS
        beside = place.with_name(f".{place.name.removesuffix(kind)}.{os.getpid()}{kind}")
        try:
            if kind == WHOLE:
                self.model.save(beside)
            else:
                self.model.save_weights(beside)
            os.replace(beside, place)
        finally:
            beside.unlink(missing_ok=True)
