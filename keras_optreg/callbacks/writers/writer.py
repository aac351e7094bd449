"""What a writer is, and what a directory must allow."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Values = Mapping[str, "float | np.ndarray"]


class Writer:
    """Records named values at steps; knows nothing of where they come from.

    A subclass gives `write`. `open` is called before the first step of each training, so that what cannot be written is
    an error then; `close` when a training ends. A writer may be opened again for the next training.
    """

    def open(self) -> None:
        """Get ready, or raise."""

    def write(self, step: int, values: Values) -> None:
        """Record values: floats and arrays by name."""
        raise NotImplementedError

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
