"""Keep values in memory."""

from collections.abc import Sequence

import numpy as np

from keras_optreg.callbacks.writers.writer import Hyperparameters, Values, Writer


class MemoryWriter(Writer):
    """Keeps everything in `history`: for each name the steps and the values; for notebooks and tests.

    Attributes:
        history: `{name: ([steps], [values])}`.
        texts: `{name: ([steps], [texts])}`.
        images: `{name: ([steps], [arrays])}`.
        hyperparameters: `{name: value}`, of the last that were written.

    Example:
        >>> memory = MemoryWriter()
        >>> memory.write(10, {"learning_rate": 0.5})
        >>> memory.write(20, {"learning_rate": 0.25})
        >>> memory.history["learning_rate"]
        ([10, 20], [0.5, 0.25])
    """

    def __init__(self):
        self.history: dict[str, tuple[list[int], list[float | np.ndarray]]] = {}
        self.texts: dict[str, tuple[list[int], list[str]]] = {}
        self.images: dict[str, tuple[list[int], list[np.ndarray]]] = {}
        self.hyperparameters: dict[str, float | str | bool] = {}

    def write(self, step: int, values: Values) -> None:
        for name, value in values.items():
            _keep(self.history, step, name, value)

    def write_text(self, step: int, name: str, markdown: str) -> None:
        _keep(self.texts, step, name, markdown)

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        _keep(self.images, step, name, np.array(image))

    def write_hyperparameters(self, hyperparameters: Hyperparameters, metrics: Sequence[str] = ()) -> None:
        self.hyperparameters = dict(hyperparameters)


def _keep(where: dict[str, tuple[list[int], list]], step: int, name: str, value: object) -> None:
    steps, kept = where.setdefault(name, ([], []))
    steps.append(step)
    kept.append(value)
