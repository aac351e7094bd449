"""Records of what probes measured."""

from keras_optreg.callbacks.writers.console import ConsoleWriter
from keras_optreg.callbacks.writers.csv import CSVWriter
from keras_optreg.callbacks.writers.json_lines import JSONLinesWriter
from keras_optreg.callbacks.writers.memory import MemoryWriter
from keras_optreg.callbacks.writers.tensorboard import TensorBoardWriter
from keras_optreg.callbacks.writers.writer import Writer

__all__ = ["CSVWriter", "ConsoleWriter", "JSONLinesWriter", "MemoryWriter", "TensorBoardWriter", "Writer"]
