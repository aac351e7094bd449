"""Optimizers: each one file with its rule, its class and its docstring."""

from keras_optreg.optimizers.adagrad import Adagrad
from keras_optreg.optimizers.adam import Adam
from keras_optreg.optimizers.adamax import Adamax
from keras_optreg.optimizers.adamw import AdamW
from keras_optreg.optimizers.amsgrad import AMSGrad
from keras_optreg.optimizers.nadam import Nadam
from keras_optreg.optimizers.rmsprop import RMSprop
from keras_optreg.optimizers.rule_optimizer import WEIGHT, ZEROS, RuleOptimizer, Step
from keras_optreg.optimizers.sgd import SGD

__all__ = [
    "SGD",
    "WEIGHT",
    "ZEROS",
    "AMSGrad",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Nadam",
    "RMSprop",
    "RuleOptimizer",
    "Step",
]
