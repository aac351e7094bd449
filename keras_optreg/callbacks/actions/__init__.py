"""Callbacks that change the training."""

from keras_optreg.callbacks.actions.action import Action
from keras_optreg.callbacks.actions.dropout_schedule import DropoutSchedule
from keras_optreg.callbacks.actions.early_stopping import EarlyStopping
from keras_optreg.callbacks.actions.evaluate_at_average import EvaluateAtAverage
from keras_optreg.callbacks.actions.keep_best import KeepBest
from keras_optreg.callbacks.actions.learning_rate_decay import LearningRateDecay
from keras_optreg.callbacks.actions.magnitude_pruning import MagnitudePruning
from keras_optreg.callbacks.actions.parameter_schedule import ParameterSchedule
from keras_optreg.callbacks.actions.penalty_schedule import PenaltySchedule
from keras_optreg.callbacks.actions.reduce_lr_on_plateau import ReduceLROnPlateau

__all__ = [
    "Action",
    "DropoutSchedule",
    "EarlyStopping",
    "EvaluateAtAverage",
    "KeepBest",
    "LearningRateDecay",
    "MagnitudePruning",
    "ParameterSchedule",
    "PenaltySchedule",
    "ReduceLROnPlateau",
]
