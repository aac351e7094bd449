"""Optimizers: each one file with its rule, its class and its docstring."""

from keras_optreg.optimizers import gradient_transforms
from keras_optreg.optimizers.adabelief import AdaBelief
from keras_optreg.optimizers.adagrad import Adagrad
from keras_optreg.optimizers.adam import Adam
from keras_optreg.optimizers.adamax import Adamax
from keras_optreg.optimizers.adamw import AdamW
from keras_optreg.optimizers.adan import Adan
from keras_optreg.optimizers.ademamix import AdEMAMix
from keras_optreg.optimizers.adopt import ADOPT
from keras_optreg.optimizers.amsgrad import AMSGrad
from keras_optreg.optimizers.cocob import COCOB
from keras_optreg.optimizers.lamb import LAMB
from keras_optreg.optimizers.lars import LARS
from keras_optreg.optimizers.layerwise_decay import layerwise_decay
from keras_optreg.optimizers.lion import Lion
from keras_optreg.optimizers.lookahead import Lookahead
from keras_optreg.optimizers.madgrad import MADGRAD
from keras_optreg.optimizers.mars import MARS
from keras_optreg.optimizers.muon import Muon
from keras_optreg.optimizers.nadam import Nadam
from keras_optreg.optimizers.novograd import NovoGrad
from keras_optreg.optimizers.partition import Partition
from keras_optreg.optimizers.prodigy import Prodigy
from keras_optreg.optimizers.proximal import ProximalAdagrad, ProximalSGD
from keras_optreg.optimizers.radam import RAdam
from keras_optreg.optimizers.rmsprop import RMSprop
from keras_optreg.optimizers.rule_optimizer import GRADIENT, WEIGHT, ZEROS, RuleOptimizer, Scalar, Shaped, Step
from keras_optreg.optimizers.sam import SAM
from keras_optreg.optimizers.schedule_free_adamw import ScheduleFreeAdamW
from keras_optreg.optimizers.schedule_free_sgd import ScheduleFreeSGD
from keras_optreg.optimizers.sgd import SGD
from keras_optreg.optimizers.soap import SOAP
from keras_optreg.optimizers.weight_decay import FullyDecoupled
from keras_optreg.optimizers.yogi import Yogi

__all__ = [
    "ADOPT",
    "COCOB",
    "GRADIENT",
    "LAMB",
    "LARS",
    "MADGRAD",
    "MARS",
    "SAM",
    "SGD",
    "SOAP",
    "WEIGHT",
    "ZEROS",
    "AMSGrad",
    "AdEMAMix",
    "AdaBelief",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "FullyDecoupled",
    "Lion",
    "Lookahead",
    "Muon",
    "Nadam",
    "NovoGrad",
    "Partition",
    "Prodigy",
    "ProximalAdagrad",
    "ProximalSGD",
    "RAdam",
    "RMSprop",
    "RuleOptimizer",
    "Scalar",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Shaped",
    "Step",
    "Yogi",
    "gradient_transforms",
    "layerwise_decay",
]
