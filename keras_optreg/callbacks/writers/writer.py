"""What a writer is, and what a directory must allow."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Values = Mapping[str, "float | np.ndarray"]
Hyperparameters = Mapping[str, "float | str | bool"]
Layout = Mapping[str, Mapping[str, Sequence[str]]]


class Writer:
    """Records named values at steps; knows nothing of where they come from.

    A subclass gives `write`, and is a whole writer with that. `open` is called before the first step of each training,
    so that what cannot be written is an error then; `close` when a training ends. A writer may be opened again for the
    next training. What it has no place for, it leaves out: texts, images, hyper-parameters and a layout do nothing
    here.
    """

    def open(self) -> None:
        """Get ready, or raise."""

    def start_after(self, step: int) -> None:
        """The training goes on after this step; what stands at later ones is of a run that was broken off."""

    def write(self, step: int, values: Values) -> None:
        """Record values: floats and arrays by name."""
        raise NotImplementedError

    def write_text(self, step: int, name: str, markdown: str) -> None:
        """Record a text."""

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Record an image, H×W or H×W×(1, 3 or 4): numbers from 0 to 1, or `uint8`."""

    def write_hyperparameters(self, hyperparameters: Hyperparameters, metrics: Sequence[str] = ()) -> None:
        """Record what the run was made with, and which of its values it is judged by."""

    def write_layout(self, layout: Layout) -> None:
        """Say which values belong into one chart: `{group: {chart: [regular expressions of names]}}`."""

    def flush(self) -> None:
        """Make what was written visible to readers."""

    def close(self) -> None:
        """Let go of files."""


def scalars(values: Values) -> Iterator[tuple[str, float]]:
    """Name and number; an array as its `/min`, `/mean` and `/max`."""
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            for statistic in ("min", "mean", "max"):
                yield f"{name}/{statistic}", float(getattr(value, statistic)()) if value.size else float("nan")
        else:
            yield name, value


def writable_directory(directory: Path, owner: str, argument: Any) -> Path:
    """Create the directory and try it, or raise an `OSError` that says what to do."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return directory
    except OSError as error:
        raise type(error)(
            f"{owner} cannot write to {str(argument)!r}: {error.strerror or error}. "
            "Pass a directory that exists or can be created, and where files can be written."
        ) from error
