"""A small table: what `attach`, `report` and `summary` return, readable when printed and usable in code."""

from collections import namedtuple
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

import keras

from keras_optreg.introspection import shown


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, keras.regularizers.Regularizer):
        return shown(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Table:
    """Rows with named columns. Iterate, index or `len()` it; each row is a named tuple; `print` aligns it.

    >>> table = Table(("path", "value"), [("dense/kernel", 0.25)])
    >>> table[0].value
    0.25
    >>> print(table)
    path          value
    dense/kernel  0.25
    """

    def __init__(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], footer: str = ""):
        self.columns = tuple(columns)
        self._row = namedtuple("Row", self.columns)
        self.rows = [self._row(*row) for row in rows]
        self.footer = footer

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]

    def _text(self) -> list[list[str]]:
        heads = [name.replace("_", " ") for name in self.columns]
        return [heads, *([_cell(value) for value in row] for row in self.rows)]

    def __str__(self) -> str:
        text = self._text()
        widths = [max(len(line[i]) for line in text) for i in range(len(self.columns))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in text
        ]
        return "\n".join(lines + ([self.footer] if self.footer else []))

    __repr__ = __str__

    def markdown(self) -> str:
        """The table in Markdown, with the footer below it."""
        heads, *body = ([cell.replace("|", "\\|") for cell in line] for line in self._text())
        lines = [heads, ["---"] * len(heads), *body]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"{table}\n\n{self.footer}" if self.footer else table

    def _repr_html_(self) -> str:
        heads, *body = self._text()

        def line(cells: list[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        rows = "".join([line(heads, "th"), *(line(cells, "td") for cells in body)])
        return f"<table>{rows}</table>" + (f"<p>{escape(self.footer)}</p>" if self.footer else "")
