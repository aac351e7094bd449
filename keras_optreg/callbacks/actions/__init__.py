"""Callbacks that change the training."""

from keras_optreg.callbacks.actions.action import Action
from keras_optreg.callbacks.actions.early_stopping import EarlyStopping
from keras_optreg.callbacks.actions.evaluate_at_average import EvaluateAtAverage
from keras_optreg.callbacks.actions.learning_rate_decay import LearningRateDecay
from keras_optreg.callbacks.actions.magnitude_pruning import MagnitudePruning

__all__ = ["Action", "EarlyStopping", "EvaluateAtAverage", "LearningRateDecay", "MagnitudePruning"]
