"""Keep values in memory."""

import numpy as np

from keras_optreg.callbacks.writers.writer import Values, Writer


class MemoryWriter(Writer):
    """Keeps everything in `history`: for each name the steps and the values; for notebooks and tests.

    Attributes:
        history: `{name: ([steps], [values])}`.

    Example:
        >>> memory = MemoryWriter()
        >>> memory.write(10, {"learning_rate": 0.5})
        >>> memory.write(20, {"learning_rate": 0.25})
        >>> memory.history["learning_rate"]
        ([10, 20], [0.5, 0.25])
    """

    def __init__(self):
        self.history: dict[str, tuple[list[int], list[float | np.ndarray]]] = {}

    def write(self, step: int, values: Values) -> None:
        for name, value in values.items():
            steps, kept = self.history.setdefault(name, ([], []))
            steps.append(step)
            kept.append(value)
