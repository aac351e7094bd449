"""Callbacks: those that watch (`Monitor`, `TensorBoard`) and those that act (`EarlyStopping`, `LearningRateDecay`)."""

from keras_optreg.callbacks import criteria, probes, writers
from keras_optreg.callbacks.actions import (
    Action,
    DropoutSchedule,
    EarlyStopping,
    EvaluateAtAverage,
    FreezeBatchNorm,
    GradualUnfreezing,
    KeepBest,
    LearningRateDecay,
    MagnitudePruning,
    ParameterSchedule,
    PenaltySchedule,
    ReduceLROnPlateau,
    WeightAveraging,
)
from keras_optreg.callbacks.monitor import Monitor
from keras_optreg.callbacks.probes import (
    DataLoss,
    GradientNorm,
    LearningRate,
    Logs,
    Probe,
    TrainValidationGap,
    UpdateRatio,
    WeightNorm,
    Weights,
)
from keras_optreg.callbacks.progress_bar import ProgressBar
from keras_optreg.callbacks.tensorboard import TensorBoard
from keras_optreg.callbacks.writers import ConsoleWriter, CSVWriter, MemoryWriter, TensorBoardWriter, Writer

__all__ = [
    "Action",
    "CSVWriter",
    "ConsoleWriter",
    "DataLoss",
    "DropoutSchedule",
    "EarlyStopping",
    "EvaluateAtAverage",
    "FreezeBatchNorm",
    "GradientNorm",
    "GradualUnfreezing",
    "KeepBest",
    "LearningRate",
    "LearningRateDecay",
    "Logs",
    "MagnitudePruning",
    "MemoryWriter",
    "Monitor",
    "ParameterSchedule",
    "PenaltySchedule",
    "Probe",
    "ProgressBar",
    "ReduceLROnPlateau",
    "TensorBoard",
    "TensorBoardWriter",
    "TrainValidationGap",
    "UpdateRatio",
    "WeightAveraging",
    "WeightNorm",
    "Weights",
    "Writer",
    "criteria",
    "probes",
    "writers",
]
