"""Learning rates (and other numbers) as functions of the step."""

from keras_optreg.schedules.combinators import Joined, join, warmup
from keras_optreg.schedules.cosine import CosineDecay, CosineRestarts
from keras_optreg.schedules.decays import ExponentialDecay, InverseTimeDecay, PolynomialDecay
from keras_optreg.schedules.function_schedule import FunctionSchedule
from keras_optreg.schedules.steps import PiecewiseConstant, StepDecay

__all__ = [
    "CosineDecay",
    "CosineRestarts",
    "ExponentialDecay",
    "FunctionSchedule",
    "InverseTimeDecay",
    "Joined",
    "PiecewiseConstant",
    "PolynomialDecay",
    "StepDecay",
    "join",
    "warmup",
]
