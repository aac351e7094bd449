"""Values as lines of JSON in a file."""

import json
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from keras_optreg.callbacks.writers.writer import Hyperparameters, Values, Writer, scalars, writable_directory


class JSONLinesWriter(Writer):
    """Writes one JSON object per step: `{"step": 10, "learning_rate": 0.001, "gradient_norm": 2.31}`.

    For scripts and log collectors. Arrays become their `/min`, `/mean` and `/max`. JSON has no NaN and no infinity:
    they are the strings `"NaN"`, `"Infinity"` and `"-Infinity"`, which `float()` in Python and `Number()` in JavaScript
    read back. Texts are `{"step": 10, "text": {name: text}}`, hyper-parameters `{"hyperparameters": {name: value}}`;
    images are left out. With pandas: `pd.read_json(path, lines=True)`.

    Args:
        path: The file. Its directory is created.
        append: Add to a file that is there, in place of starting it anew. A second `fit` with the same writer always
            adds. A run that was resumed from before its end writes some steps twice; the later line is the true one.

    Raises:
        OSError: Before training starts, when the file cannot be written.

    Example:
        >>> import tempfile
        >>> writer = JSONLinesWriter(tempfile.mkdtemp() + "/run.jsonl")
        >>> writer.write(10, {"loss": 0.5, "gradient_norm": float("nan")})
        >>> writer.close()
        >>> print(writer.path.read_text().strip())
        {"step": 10, "loss": 0.5, "gradient_norm": "NaN"}
    """

    def __init__(self, path: str | Path, append: bool = False):
        self.path = Path(path)
        self.append = append
        self._file: Any = None

    def open(self) -> None:
        if self._file is None:
            writable_directory(self.path.parent, "JSONLinesWriter", self.path)
            self._file = self.path.open("a" if self.append else "w", encoding="utf-8")
            self.append = True

    def write(self, step: int, values: Values) -> None:
        self._write({"step": step, **{name: _json(float(value)) for name, value in scalars(values)}})

    def write_text(self, step: int, name: str, markdown: str) -> None:
        self._write({"step": step, "text": {name: markdown}})

    def write_hyperparameters(self, hyperparameters: Hyperparameters, metrics: Sequence[str] = ()) -> None:
        self._write({"hyperparameters": {name: _json(value) for name, value in hyperparameters.items()}})

    def _write(self, line: dict[str, Any]) -> None:
        self.open()
        self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _json(value: Any) -> Any:
    if isinstance(value, float) and not isfinite(value):
        return json.dumps(value)  # NaN, Infinity or -Infinity
    return value
