"""Measures of a model in training."""

from keras_optreg.callbacks.probes.data_loss import DataLoss
from keras_optreg.callbacks.probes.gradient_norm import GradientNorm
from keras_optreg.callbacks.probes.learning_rate import LearningRate
from keras_optreg.callbacks.probes.logs import Logs, TrainValidationGap
from keras_optreg.callbacks.probes.probe import Probe
from keras_optreg.callbacks.probes.weights import UpdateRatio, WeightNorm, Weights

__all__ = [
    "DataLoss",
    "GradientNorm",
    "LearningRate",
    "Logs",
    "Probe",
    "TrainValidationGap",
    "UpdateRatio",
    "WeightNorm",
    "Weights",
]
