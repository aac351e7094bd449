"""What a rule is, and what it finds."""

from dataclasses import dataclass

from keras_optreg.diagnosis.recorded import Recorded


@dataclass(frozen=True)
class Finding:
    """A fault of a training.

    Attributes:
        name: What it is: `"overfitting"`.
        evidence: The numbers that show it.
        remedy: What helps, in this library's words.
        source: Who says so.
    """

    name: str
    evidence: str
    remedy: str
    source: str

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}\n  What helps: {self.remedy}\n  Source: {self.source}"


EPOCHS = 5
"""Fewer, of epochs or of measurements, say nothing about where a curve goes."""


class Rule:
    """A fault that shows in the numbers of a training. A subclass gives the four attributes and `evidence`.

    Thresholds are class attributes in capitals; a subclass with others is another rule.

    Attributes:
        name: What the fault is called.
        needs: Alternatives, each the names of curves that it can be seen in.
        remedy: What helps.
        source: Who says so.
        is_symptom: Whether most other faults look like this too; it is named only where none of them was found.
    """

    name: str
    needs: tuple[tuple[str, ...], ...]
    remedy: str
    source: str
    is_symptom = False

    def can_look(self, run: Recorded) -> bool:
        """Whether what it needs was recorded."""
        return any(run.curves.keys() >= set(names) for names in self.needs)

    def evidence(self, run: Recorded) -> str | None:
        """The numbers that show the fault, in a sentence; `None` where there is none."""
        raise NotImplementedError

    def look(self, run: Recorded) -> Finding | None:
        """The fault, if this run has it."""
        found = self.evidence(run) if self.can_look(run) else None
        return None if found is None else Finding(self.name, found, self.remedy, self.source)


def number(value: float) -> str:
    """As it stands in a sentence."""
    return f"{value:.3g}"
