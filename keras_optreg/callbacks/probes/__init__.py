"""Measures of a model in training."""

from keras_optreg.callbacks.probes.activations import Activations, DeadUnits
from keras_optreg.callbacks.probes.data_loss import DataLoss
from keras_optreg.callbacks.probes.gradient_norm import GradientNorm
from keras_optreg.callbacks.probes.gradients import Gradients
from keras_optreg.callbacks.probes.learning_rate import LearningRate
from keras_optreg.callbacks.probes.logs import Logs, TrainValidationGap
from keras_optreg.callbacks.probes.non_finite import NonFiniteGradients
from keras_optreg.callbacks.probes.probe import Probe
from keras_optreg.callbacks.probes.resources import Memory, StepTime
from keras_optreg.callbacks.probes.weights import Penalties, UpdateRatio, WeightNorm, Weights, ZeroFraction

__all__ = [
    "Activations",
    "DataLoss",
    "DeadUnits",
    "GradientNorm",
    "Gradients",
    "LearningRate",
    "Logs",
    "Memory",
    "NonFiniteGradients",
    "Penalties",
    "Probe",
    "StepTime",
    "TrainValidationGap",
    "UpdateRatio",
    "WeightNorm",
    "Weights",
    "ZeroFraction",
]
