"""Steps that are too long or too short."""

import numpy as np

from keras_optreg.diagnosis.recorded import Curve, Recorded
from keras_optreg.diagnosis.rule import EPOCHS, Rule, number


class LearningRateTooHigh(Rule):
    """The training loss is not finite, has risen, or jumps.

    Any of: the loss of an epoch is NaN or infinite; the loss of the data ends 5 % above its first value, or half above
    its best; its rises from one epoch to the next come to 1 % of it an epoch. The last two with a twentieth of the
    first value left. Where the first steps killed the units, dead units are what there is to see.
    """

    ABOVE, RISE, JUMP, LEFT = 0.05, 0.5, 0.01, 0.05
    name = "learning rate too high"
    needs = (("loss",),)
    remedy = "a rate smaller by 3 to 10; a warm-up (kor.schedules.warmup); clipping (global_clipnorm=1.0); NaNGuard."
    source = (
        'Bengio, "Practical recommendations for gradient-based training of deep architectures", 2012, section 3.1.1'
    )

    def evidence(self, run: Recorded) -> str | None:
        whole, loss = run.curves["loss"], run.of_data()
        broken = np.flatnonzero(~np.isfinite(whole.values))
        if broken.size:
            return f"the training loss is {whole.values[broken[0]]} in {whole.where(broken[0])}."
        if loss is None or len(loss) < EPOCHS or not loss.is_finite:
            return None
        return self._risen(loss) or self._jumping(loss)

    def _risen(self, loss: Curve) -> str | None:
        best = int(np.argmin(loss.values))
        first, lowest, last = loss.values[0], loss.values[best], loss.end
        has_risen = best < len(loss) - 3 and last > max(lowest + self.RISE * abs(lowest), self.LEFT * abs(first))
        if not has_risen and last <= first + self.ABOVE * abs(first):
            return None
        return (
            f"the training loss was {number(first)} in the first epoch, {number(lowest)} at its best "
            f"({loss.where(best)}), and is {number(last)} at the end."
        )

    def _jumping(self, loss: Curve) -> str | None:
        rises = np.maximum(np.diff(loss.values), 0)
        if rises.mean() < self.JUMP * abs(loss.end) or loss.end <= self.LEFT * abs(loss.values[0]):
            return None
        return (
            f"the training loss rose in {np.count_nonzero(rises)} of {len(rises)} epochs, by {number(rises.max())} at "
            f"most, and is {number(loss.end)} at the end."
        )


class LearningRateTooLow(Rule):
    """The training loss still falls at the pace of the beginning, and most of it is left.

    The last third of the epochs brought half as much as the first third or more, more than half of the first epoch's
    loss is left, and, where updates were measured, the median one changes the weights by less than 1e-3 of their norm.
    """

    PACE, LEFT, RATIO = 0.5, 0.5, 1e-3
    name = "learning rate too low"
    is_symptom = True
    needs = (("loss",),)
    remedy = (
        "a rate larger by 3 to 10, or Adam in place of SGD; more epochs, if each step should stay as short as it is."
    )
    source = (
        'Bengio, "Practical recommendations for gradient-based training of deep architectures", 2012, section 3.1.1; '
        "Stanford CS231n, notes on learning, 2015 (updates near 1e-3 of the weights)"
    )

    def evidence(self, run: Recorded) -> str | None:
        loss, ratio = run.of_data(), run.get("update_ratio")
        if loss is None or len(loss) < EPOCHS or not loss.is_finite:
            return None
        values, third = loss.values, len(loss) // 3
        early, late = values[0] - values[third], values[-1 - third] - values[-1]
        if early <= 0 or late < self.PACE * early or values[-1] <= self.LEFT * values[0]:
            return None
        typical = float(np.nanmedian(ratio.values)) if ratio else None
        if typical is not None and typical >= self.RATIO:
            return None
        told = "" if typical is None else f"; the median update changes the weights by {typical:.1g} of their norm"
        return (
            f"after {len(loss)} epochs the training loss has come from {number(values[0])} to {number(values[-1])} "
            f"only, and the last third of them still brought {late / early:.0%} of what the first third did{told}."
        )
