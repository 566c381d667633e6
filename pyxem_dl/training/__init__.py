"""Training of orientation models on simulated or on labelled patterns, and of Bragg models, with Lightning.

The clock rules: a training has a time limit, its learning rate follows the share of the
time that has passed, and an interrupted training can be continued.
"""

from pyxem_dl.training.bragg import BraggConfiguration, train_bragg
from pyxem_dl.training.configuration import LabelledConfiguration, TrainingConfiguration
from pyxem_dl.training.labelled import finetune
from pyxem_dl.training.learning import OrientationTraining, SimulatedBatches, validate
from pyxem_dl.training.orientation import train
from pyxem_dl.training.structures import StructureConfiguration, train_structures

__all__ = [
    "BraggConfiguration", "LabelledConfiguration", "OrientationTraining", "SimulatedBatches", "StructureConfiguration",
    "TrainingConfiguration", "finetune", "train", "train_bragg", "train_structures", "validate",
]  # fmt: skip
