"""Print values."""

import sys
from typing import TextIO

from keras_optreg.callbacks.writers.writer import Values, Writer, scalars


class ConsoleWriter(Writer):
    """Prints one line per step: `step 120  learning_rate 0.001  gradient_norm 2.31`; texts as they are.

    Args:
        stream: Where to; standard output when `None`.
    """

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream

    def write(self, step: int, values: Values) -> None:
        self._print(step, "  ".join(f"{name} {value:.4g}" for name, value in scalars(values)))

    def write_text(self, step: int, name: str, markdown: str) -> None:
        self._print(step, f"{name}: {markdown}")

    def _print(self, step: int, shown: str) -> None:
        stream = self.stream or sys.stdout
        stream.write(f"step {step}  {shown}\n")
        stream.flush()
