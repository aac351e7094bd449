"""The numbers of a training, wherever they were recorded."""

import csv
import json
import struct
from collections.abc import Iterator, Mapping
from importlib import import_module
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np


class Curve:
    """Values of one name, in order.

    Attributes:
        at: Where each was measured: epochs, from 0, or updates, from 1.
        values: float64, as many as `at`.
        unit: `"epoch"` or `"step"`.
    """

    def __init__(self, points: Mapping[int, float], unit: str):
        self.at = np.array(sorted(points), "int64")
        self.values = np.array([points[at] for at in self.at], "float64")
        self.unit = unit

    def __len__(self) -> int:
        return len(self.values)

    @property
    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return bool(np.isfinite(self.values).all())

    @property
    def end(self) -> float:
        """The median of the last eighth, of three values at least."""
        return float(np.median(self.values[-max(3, len(self) // 8) :]))

    def stands_still(self, share: float, part: float) -> bool:
        """Whether the last `part` of it brought it down by no more than this share of where it is.

        A slow fall is not standing still where it has kept half of its mean pace.
        """
        start = max(len(self) - 1 - max(3, round(part * len(self))), 1)
        fall = float(np.median(self.values[start - 1 : start + 2])) - self.end
        pace = (self.values[0] - self.end) * (len(self) - 2 - start) / (len(self) - 2)
        return fall <= share * abs(self.end) and fall <= max(0.5 * pace, 2e-4 * abs(self.end))

    def where(self, index: int) -> str:
        """The place of a value in words: epochs counted from 1, as Keras prints them."""
        at = self.at[index]
        return f"epoch {at + 1}" if self.unit == "epoch" else f"step {at}"


class Recorded:
    """Curves by name, from all that a training left; the names of layers and weights in the order of the model.

    Args:
        runs: Any of: what `fit` returned (a `History`, or its dict), a `MemoryWriter`, the file of a `CSVWriter`, a
            `JSONLinesWriter` or Keras's `CSVLogger`, the directory of a run of TensorBoard, another `Recorded`. Where
            two have the same name, the earlier is taken.

    Attributes:
        curves: `{name: Curve}`, by the names of Keras's history and of our probes.

    Raises:
        FileNotFoundError: When there is no such file, or no event file in the directory.
        TypeError: For anything else.
        ValueError: When nothing is recorded in it.
    """

    def __init__(self, *runs: Any):
        self.curves: dict[str, Curve] = {}
        for run in runs:
            found = _read(run)
            if not found:
                raise ValueError(f"diagnose: no numbers are recorded in {run!r}.")
            self.curves = {**found, **self.curves}

    def get(self, name: str) -> Curve | None:
        """The curve, or `None`."""
        return self.curves.get(name)

    def of_data(self, prefix: str = "") -> Curve | None:
        """The loss without penalties, where it was recorded apart, else the loss; of validation with `"val_"`."""
        return self.get(f"{prefix}data_loss") or self.get(f"{prefix}loss")

    def each(self, name: str) -> dict[str, Curve]:
        """The curves `<name>/<path>` by path: of weights or layers, in the order of the model."""
        return {key.removeprefix(f"{name}/"): c for key, c in self.curves.items() if key.startswith(f"{name}/")}


def _read(run: Any) -> dict[str, Curve]:
    if isinstance(run, Recorded):
        return run.curves
    history = getattr(run, "history", run)
    if isinstance(history, Mapping):
        return {name: curve for name, values in history.items() if len(curve := _of_history(values))}
    if isinstance(run, str | Path):
        path = Path(run)
        if path.is_dir():
            return _of_events(path)
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1].splitlines()  # a process that was killed may have written half a line
        try:
            return _of_csv(whole) if path.suffix == ".csv" else _of_points(_json_points(whole))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"diagnose cannot read {str(path)!r} as a file of CSVWriter, JSONLinesWriter or CSVLogger: {error!r}"
            ) from error
    raise TypeError(
        "diagnose takes what `fit` returned, a MemoryWriter, a file of CSVWriter or JSONLinesWriter, or the directory "
        f"of a TensorBoard run. Received: {run!r}"
    )


def _of_history(values: Any) -> Curve:
    """Of a `MemoryWriter` steps and values, of Keras's history values alone; without what is no number."""
    if isinstance(values, tuple) and len(values) == 2 and np.ndim(values[0]) == 1:
        return Curve({step: float(value) for step, value in zip(*values, strict=True) if _is_number(value)}, "step")
    # A History of two fits counts the epochs anew in each, so they are counted here.
    return Curve({i: float(value) for i, value in enumerate(values) if _is_number(value)}, "epoch")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real | np.number) or (np.ndim(value) == 0 and hasattr(value, "dtype"))


def _of_csv(lines: list[str]) -> dict[str, Curve]:
    rows = list(csv.DictReader(lines))
    if rows and "epoch" in rows[0]:  # of Keras's CSVLogger: one row an epoch
        names = [name for name in rows[0] if name != "epoch"]
        columns = {name: {int(row["epoch"]): float(row[name]) for row in rows if row[name] != "NA"} for name in names}
        return {name: Curve(points, "epoch") for name, points in columns.items()}
    return _of_points((row["name"], int(row["step"]), float(row["value"])) for row in rows)


def _json_points(lines: list[str]) -> Iterator[tuple[str, int, float]]:
    for line in map(json.loads, lines):
        for name, value in line.items():
            if name not in ("step", "text", "hyperparameters"):
                yield name, line["step"], float(value)


def _of_points(points: Iterator[tuple[str, int, float]]) -> dict[str, Curve]:
    found: dict[str, dict[int, float]] = {}
    for name, step, value in points:
        found.setdefault(name, {})[step] = value
    return {name: Curve(values, "step") for name, values in found.items()}


# ------------------------------------------------------------------ event files of TensorBoard


def _of_events(directory: Path) -> dict[str, Curve]:
    """Of the runs in `train` and `validation` below the directory, as `TensorBoard` makes them, or of it itself."""
    curves: dict[str, Curve] = {}
    for folder, prefix in (("train", ""), ("validation", "val_"), (".", "")):
        for name, points in _scalars(directory / folder).items():
            is_epoch = name.startswith("epoch_")
            curves.setdefault(prefix + name.removeprefix("epoch_"), Curve(points, "epoch" if is_epoch else "step"))
    if not curves and not any(directory.glob("**/events.out.tfevents.*")):
        raise FileNotFoundError(
            f"diagnose: there are no event files in {str(directory)!r}. Pass the directory of one run, "
            "`log_dir` of its `TensorBoard`."
        )
    return curves


def _scalars(folder: Path) -> dict[str, dict[int, float]]:
    proto: Any = import_module("tensorboardX.proto.event_pb2")
    found: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for record in _records(path):
            event = proto.Event.FromString(record)
            if (
                event.session_log.status == proto.SessionLog.START
            ):  # the run was taken up here: what stood later is void
                for points in found.values():
                    for step in [step for step in points if step >= event.step]:
                        del points[step]
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, {})[event.step] = value.simple_value
                elif value.tensor.dtype == 1 and not value.tensor.tensor_shape.dim:  # as TensorFlow writes a float
                    numbers = value.tensor.float_val or np.frombuffer(value.tensor.tensor_content, "<f4")
                    found.setdefault(value.tag, {})[event.step] = float(numbers[0])
    return {name: points for name, points in found.items() if points}


def _records(path: Path) -> Iterator[bytes]:
    """What stands in a record file: length, checksum, bytes, checksum. The last may be cut short."""
    data = path.read_bytes()
    start = 0
    while start + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        if start + 16 + length > len(data):
            return
        yield data[start + 12 : start + 12 + length]
        start += 16 + length
