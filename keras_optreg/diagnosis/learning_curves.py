"""Faults that show in the losses of the epochs."""

import numpy as np

from keras_optreg.diagnosis.recorded import Curve, Recorded
from keras_optreg.diagnosis.rule import EPOCHS, Rule, number


def _losses(run: Recorded) -> tuple[Curve, Curve] | None:
    """Training and validation, finite and long enough."""
    train, validation = run.of_data(), run.of_data("val_")
    if train is None or validation is None or min(len(train), len(validation)) < EPOCHS:
        return None
    return (train, validation) if np.isfinite([*train.values, *validation.values]).all() else None


class Overfitting(Rule):
    """The validation loss rises while the training loss falls.

    It was best before the end, has risen by a tenth of its best value since (Prechelt's generalization loss above 10),
    with a twentieth of its first value left, and the training loss has fallen by a tenth.
    """

    RISE, FALL, LEFT = 0.1, 0.1, 0.05
    name = "overfitting"
    needs = (("loss", "val_loss"),)
    remedy = (
        'EarlyStopping("val_loss", restore_best_weights=True); kor.attach(model, kor.regularizers.L2(1e-4)), weight '
        "decay or dropout; more data or augmentation; a smaller model."
    )
    source = 'Prechelt, "Early stopping, but when?", 1998; Goodfellow et al., "Deep learning", 2016, section 5.2'

    def evidence(self, run: Recorded) -> str | None:
        losses = _losses(run)
        if losses is None:
            return None
        train, validation = losses
        best = int(np.argmin(validation.values))
        lowest, last = validation.values[best], validation.end
        # With a `validation_freq` there are fewer of these, and Keras's history does not say of which epochs.
        then = round(best * (len(train) - 1) / (len(validation) - 1))
        before, after = train.values[then], train.end
        has_risen = last > max(lowest + self.RISE * abs(lowest), self.LEFT * abs(validation.values[0]))
        if best >= len(validation) - 3 or not has_risen or before - after <= self.FALL * abs(before):
            return None
        return (
            f"the validation loss was best at {train.where(then)}, {number(lowest)}, and is {number(last)} at the "
            f"end, while the training loss fell from {number(before)} to {number(after)}."
        )


class Underfitting(Rule):
    """The training loss stands still, high, and the validation loss is no worse.

    The last quarter of the epochs brought it down by less than 2 %; the validation loss lies less than a tenth
    above the training loss; and more than three tenths of the first epoch's loss are left.
    """

    STILL, PART, GAP, LEFT = 0.02, 0.25, 0.1, 0.3
    name = "underfitting"
    is_symptom = True
    needs = (("loss", "val_loss"),)
    remedy = (
        "a larger model or other features; less regularization (smaller penalties, less dropout); first make sure that "
        "the model can learn a few batches by heart. If it can't get better, the data may hold no more."
    )
    source = (
        'Goodfellow et al., "Deep learning", 2016, section 5.2; Karpathy, "A recipe for training neural networks", 2019'
    )

    def evidence(self, run: Recorded) -> str | None:
        losses = _losses(run)
        if losses is None:
            return None
        train, validation = losses
        last, judged, first = train.end, validation.end, train.values[0]
        if not train.stands_still(self.STILL, self.PART):
            return None
        if judged - last >= self.GAP * abs(last) or last <= self.LEFT * first:
            return None
        return (
            f"the training loss has come to rest at {number(last)} ({number(first)} in the first epoch), and the "
            f"validation loss, {number(judged)}, is hardly worse: nothing is learned by heart."
        )


class Plateau(Rule):
    """The training loss has stood still for a third of the training, at a learning rate that was not lowered.

    That third brought it down by less than 1 %, more than a twentieth of the first epoch's loss is left, and the rate
    at the end is more than half of the highest in that third.
    """

    STILL, PART, LEFT, LOWERED = 0.01, 1 / 3, 0.05, 0.5
    name = "plateau"
    is_symptom = True
    needs = (("loss",),)
    remedy = (
        'ReduceLROnPlateau("loss"), a schedule that ends low (CosineDecay, WarmupStableDecay), or WeightAveraging, if '
        "the loss jumps about a level; momentum or a larger rate, if it never fell."
    )
    source = (
        'Bengio, "Practical recommendations for gradient-based training", 2012, section 3.1; Bottou et al., '
        '"Optimization methods for large-scale machine learning", 2018, section 4'
    )

    def evidence(self, run: Recorded) -> str | None:
        train = run.of_data()
        if train is None or len(train) < 2 * EPOCHS or not train.is_finite:
            return None
        last, first = train.end, train.values[0]
        rate = run.get("learning_rate")
        lately = None if rate is None else rate.values[-max(1, round(self.PART * len(rate))) :]
        if not train.stands_still(self.STILL, self.PART) or last <= self.LEFT * first:
            return None
        if lately is not None and lately[-1] <= self.LOWERED * lately.max():
            return None
        since = len(train) - round(self.PART * len(train))
        told = "" if lately is None else f" with a learning rate of {number(lately[-1])}"
        return f"the training loss has been about {number(last)} since {train.where(since)}{told}."


class DominatingPenalty(Rule):
    """The penalty is larger than the loss of the data, and the data are hardly learned for it.

    In the first epoch, or at the end, the penalty is the larger part of the loss; the loss of the data stands still at
    more than half of its first value, or with the validation loss less than a tenth above it.
    """

    STILL, PART, GAP, LEFT = 0.02, 0.25, 0.1, 0.5
    name = "dominating penalty"
    needs = (("data_loss", "penalty"),)
    remedy = (
        "a strength smaller by 10 to 100 (`report(model)` lists each weight's share; penalty.strength = ... acts at "
        "once), or one that grows in the course of training (PenaltySchedule)."
    )
    source = (
        'Hastie et al., "The elements of statistical learning", 2009, sections 3.4 and 7.3; Goodfellow et al., "Deep '
        'learning", 2016, section 7.1'
    )

    def evidence(self, run: Recorded) -> str | None:
        data, penalty, validation = run.get("data_loss"), run.get("penalty"), run.get("val_data_loss")
        if data is None or penalty is None or len(data) < EPOCHS or not data.is_finite:
            return None
        first, last = data.values[0], data.end
        at_first, lately = penalty.values[0], penalty.end
        if last <= 0 or (at_first <= first and lately <= last):
            return None
        if not data.stands_still(self.STILL, self.PART):
            return None
        fits_as_well = validation is not None and validation.end - last < self.GAP * last
        if last <= self.LEFT * first and not fits_as_well:
            return None
        return (
            f"the penalty was {number(at_first)} in the first epoch and is {number(lately)} at the end, beside a loss "
            f"of the data of {number(first)} and {number(last)}."
        )
