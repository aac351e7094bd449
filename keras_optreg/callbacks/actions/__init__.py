"""Callbacks that change the training."""

from keras_optreg.callbacks.actions.action import Action
from keras_optreg.callbacks.actions.dropout_schedule import DropoutSchedule
from keras_optreg.callbacks.actions.early_stopping import EarlyStopping
from keras_optreg.callbacks.actions.evaluate_at_average import EvaluateAtAverage
from keras_optreg.callbacks.actions.freeze_batch_norm import FreezeBatchNorm
from keras_optreg.callbacks.actions.gradual_unfreezing import GradualUnfreezing
from keras_optreg.callbacks.actions.keep_best import KeepBest
from keras_optreg.callbacks.actions.learning_rate_decay import LearningRateDecay
from keras_optreg.callbacks.actions.magnitude_pruning import MagnitudePruning
from keras_optreg.callbacks.actions.nan_guard import NaNGuard
from keras_optreg.callbacks.actions.parameter_schedule import ParameterSchedule
from keras_optreg.callbacks.actions.penalty_schedule import PenaltySchedule
from keras_optreg.callbacks.actions.reduce_lr_on_plateau import ReduceLROnPlateau
from keras_optreg.callbacks.actions.weight_averaging import WeightAveraging

__all__ = [
    "Action",
    "DropoutSchedule",
    "EarlyStopping",
    "EvaluateAtAverage",
    "FreezeBatchNorm",
    "GradualUnfreezing",
    "KeepBest",
    "LearningRateDecay",
    "MagnitudePruning",
    "NaNGuard",
    "ParameterSchedule",
    "PenaltySchedule",
    "ReduceLROnPlateau",
    "WeightAveraging",
]
