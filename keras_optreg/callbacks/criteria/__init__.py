"""When `EarlyStopping` stops: `EarlyStopping("val_loss", criterion=Patience(10) | TimeBudget(3600))`."""

from keras_optreg.callbacks.criteria.criterion import Both, Criterion, Either, Seen
from keras_optreg.callbacks.criteria.divergence import Divergence
from keras_optreg.callbacks.criteria.patience import Patience
from keras_optreg.callbacks.criteria.prechelt import GeneralizationLoss, ProgressQuotient, UpStrips
from keras_optreg.callbacks.criteria.threshold import Threshold
from keras_optreg.callbacks.criteria.time_budget import TimeBudget

__all__ = [
    "Both",
    "Criterion",
    "Divergence",
    "Either",
    "GeneralizationLoss",
    "Patience",
    "ProgressQuotient",
    "Seen",
    "Threshold",
    "TimeBudget",
    "UpStrips",
]
