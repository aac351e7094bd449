"""Callbacks: those that watch (`Monitor`, `TensorBoard`) and those that act (`EarlyStopping`, `LearningRateDecay`)."""

from keras_optreg.callbacks import probes, writers
from keras_optreg.callbacks.actions import (
    Action,
    DropoutSchedule,
    EarlyStopping,
    EvaluateAtAverage,
    LearningRateDecay,
    MagnitudePruning,
    PenaltySchedule,
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
from keras_optreg.callbacks.tensorboard import TensorBoard
from keras_optreg.callbacks.writers import (
    ConsoleWriter,
    CSVWriter,
    JSONLinesWriter,
    MemoryWriter,
    TensorBoardWriter,
    Writer,
)

__all__ = [
    "Action",
    "CSVWriter",
    "ConsoleWriter",
    "DataLoss",
    "DropoutSchedule",
    "EarlyStopping",
    "EvaluateAtAverage",
    "GradientNorm",
    "JSONLinesWriter",
    "LearningRate",
    "LearningRateDecay",
    "Logs",
    "MagnitudePruning",
    "MemoryWriter",
    "Monitor",
    "PenaltySchedule",
    "Probe",
    "TensorBoard",
    "TensorBoardWriter",
    "TrainValidationGap",
    "UpdateRatio",
    "WeightNorm",
    "Weights",
    "Writer",
    "probes",
    "writers",
]
