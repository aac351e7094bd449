"""Learning rates (and other numbers) as functions of the step."""

from keras_optreg.schedules import shapes
from keras_optreg.schedules.combinators import Joined, Scaled, join, scale, warmup
from keras_optreg.schedules.cosine import CosineDecay, CosineRestarts, FlatCosine
from keras_optreg.schedules.cyclical import Cyclical
from keras_optreg.schedules.decays import REX, ExponentialDecay, InverseSquareRoot, InverseTimeDecay, PolynomialDecay
from keras_optreg.schedules.function_schedule import FunctionSchedule
from keras_optreg.schedules.interpolation import Interpolation, OneCycle
from keras_optreg.schedules.steps import PiecewiseConstant, StepDecay
from keras_optreg.schedules.warmup_stable_decay import WarmupStableDecay

__all__ = [
    "REX",
    "CosineDecay",
    "CosineRestarts",
    "Cyclical",
    "ExponentialDecay",
    "FlatCosine",
    "FunctionSchedule",
    "Interpolation",
    "InverseSquareRoot",
    "InverseTimeDecay",
    "Joined",
    "OneCycle",
    "PiecewiseConstant",
    "PolynomialDecay",
    "Scaled",
    "StepDecay",
    "WarmupStableDecay",
    "join",
    "scale",
    "shapes",
    "warmup",
]
