"""What is wrong with a training, from the numbers it left."""

from collections.abc import Iterator, Sequence
from typing import Any

from keras_optreg.diagnosis.gradients import DeadUnits, ExplodingGradients, VanishingGradients
from keras_optreg.diagnosis.learning_curves import DominatingPenalty, Overfitting, Plateau, Underfitting
from keras_optreg.diagnosis.learning_rate import LearningRateTooHigh, LearningRateTooLow
from keras_optreg.diagnosis.recorded import Recorded
from keras_optreg.diagnosis.rule import Finding, Rule

RULES = (
    LearningRateTooHigh(),
    ExplodingGradients(),
    VanishingGradients(),
    DeadUnits(),
    DominatingPenalty(),
    Overfitting(),
    Underfitting(),
    LearningRateTooLow(),
    Plateau(),
)
"""In this order: what stands first may be the cause of what stands below."""


class Diagnosis:
    """What `diagnose` found: iterate it, ask `"overfitting" in diagnosis`, or print it.

    Attributes:
        findings: The faults.
        looked_for: The names of all faults that the recorded numbers can show.
        not_looked_for: Of the others, with what would have to be recorded.
    """

    def __init__(self, findings: Sequence[Finding], looked_for: Sequence[str], not_looked_for: dict[str, str]):
        self.findings = list(findings)
        self.looked_for = list(looked_for)
        self.not_looked_for = dict(not_looked_for)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __contains__(self, name: object) -> bool:
        return any(finding.name == name for finding in self.findings)

    def __str__(self) -> str:
        found = [str(finding) for finding in self.findings] or ["No fault was found."] * bool(self.looked_for)
        lines = [*found, f"Looked for: {', '.join(self.looked_for) or 'nothing'}."]
        lines += [f"Not for {name}: {needs}." for name, needs in self.not_looked_for.items()]
        return "\n".join(lines)

    __repr__ = __str__


def diagnose(*runs: Any, rules: Sequence[Rule] = RULES) -> Diagnosis:
    """Says what is wrong with a training, with the numbers that show it and what helps.

    When to use it: after a `fit` that did not go well, or that was not looked at. It reads the recorded numbers alone:
    losses show overfitting, underfitting, a plateau and learning rates that are much too high or low; gradient norms
    show gradients that vanish or explode, and where; `DataLoss` a penalty that dominates; `DeadUnits` dead units.
    `callbacks.TensorBoard` records all of these but the last. docs/diagnosis.md has the rules with real trainings.

    Args:
        runs: What was recorded of one training, in one or several of: what `fit` returned, a `MemoryWriter`, the file
            of a `CSVWriter` or `JSONLinesWriter`, the directory of a TensorBoard run (`log_dir`; also of Keras's own).
            Losses are taken as one value an epoch, so a `Monitor` with `Logs` should have `every="epoch"`.
        rules: What to look for.

    Returns:
        A `Diagnosis`: findings with `name`, `evidence`, `remedy` and `source`. It also says what could not be looked
        for, since nothing of it was recorded.

    Raises:
        FileNotFoundError: When there is no such file, or no event file in the directory.
        TypeError: For anything that is no record of a training.
        ValueError: When nothing is recorded in it.

    Example:
        >>> losses = {"loss": [1.0, 0.6, 0.4, 0.3, 0.2, 0.1], "val_loss": [1.0, 0.8, 0.7, 0.8, 0.9, 1.0]}
        >>> [finding] = diagnose(losses)
        >>> finding.name
        'overfitting'
        >>> finding.evidence[:78]
        'the validation loss was best at epoch 3, 0.7, and is 0.9 at the end, while the'
    """
    if not runs:
        raise TypeError("diagnose takes at least one record of a training: what `fit` returned, or a directory.")
    if wrong := [rule for rule in rules if not isinstance(rule, Rule)]:
        raise TypeError(f"The `rules` of diagnose are objects such as Overfitting(). Received: {wrong[0]!r}")
    run = Recorded(*runs)
    able = [rule for rule in rules if rule.can_look(run)]
    found = {rule: finding for rule in able if (finding := rule.look(run)) is not None}
    causes = [finding for rule, finding in found.items() if not rule.is_symptom]
    findings = causes or list(found.values())
    others = {
        rule.name: f"it needs {' or '.join(' and '.join(names) for names in rule.needs)}"
        for rule in rules
        if rule not in able
    }
    return Diagnosis(findings, [rule.name for rule in able], others)
