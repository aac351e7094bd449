"""Values as a table in a file."""

import csv
from pathlib import Path
from typing import Any

from keras_optreg.callbacks.writers.writer import Values, Writer, scalars, writable_directory


class CSVWriter(Writer):
    """Writes one row per value: `step,name,value`.

    Long and not wide, because not every name has a value at every step (validation, say). With pandas,
    `pd.read_csv(path).pivot_table(index="step", columns="name", values="value")` makes it wide.

    Args:
        path: The file. Its directory is created.
        append: Add to a file that is there, in place of starting it anew. A second `fit` with the same writer always
            adds.

    Raises:
        OSError: Before training starts, when the file cannot be written.
    """

    def __init__(self, path: str | Path, append: bool = False):
        self.path = Path(path)
        self.append = append
        self._file: Any = None

    def open(self) -> None:
        if self._file is not None:
            return
        writable_directory(self.path.parent, "CSVWriter", self.path)
        self._file = self.path.open("a" if self.append else "w", newline="", encoding="utf-8")
        self._rows = csv.writer(self._file)
        if self._file.tell() == 0:
            self._rows.writerow(("step", "name", "value"))
        self.append = True

    def write(self, step: int, values: Values) -> None:
        self.open()
        self._rows.writerows((step, name, repr(float(value))) for name, value in scalars(values))

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
