"""What is wrong with a training: `diagnose`, and the rules by which it judges."""

from keras_optreg.diagnosis.diagnose import RULES, Diagnosis, diagnose
from keras_optreg.diagnosis.gradients import DeadUnits, ExplodingGradients, VanishingGradients
from keras_optreg.diagnosis.learning_curves import DominatingPenalty, Overfitting, Plateau, Underfitting
from keras_optreg.diagnosis.learning_rate import LearningRateTooHigh, LearningRateTooLow
from keras_optreg.diagnosis.recorded import Curve, Recorded
from keras_optreg.diagnosis.rule import Finding, Rule

__all__ = [
    "RULES",
    "Curve",
    "DeadUnits",
    "Diagnosis",
    "DominatingPenalty",
    "ExplodingGradients",
    "Finding",
    "LearningRateTooHigh",
    "LearningRateTooLow",
    "Overfitting",
    "Plateau",
    "Recorded",
    "Rule",
    "Underfitting",
    "VanishingGradients",
    "diagnose",
]
