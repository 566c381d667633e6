"""Models: a network with all that belongs to it, kept as a folder without pickles."""

from pyxem_dl.models.bragg import BraggModel
from pyxem_dl.models.ensemble import OrientationEnsemble
from pyxem_dl.models.folder import CARD, CONFIG, PRETRAINED, Model
from pyxem_dl.models.loading import ANY_CRYSTAL, list_models, load_model, phases_to_find, with_phases
from pyxem_dl.models.orientation import OrientationModel
from pyxem_dl.models.packing import PackedModel, pack_model
from pyxem_dl.models.sent import SentModel
from pyxem_dl.models.structure import StructureModel
from pyxem_dl.moved import moved_names

__getattr__ = moved_names(__name__)

__all__ = [
    "ANY_CRYSTAL", "BraggModel", "CARD", "CONFIG", "Model", "OrientationEnsemble", "OrientationModel", "PRETRAINED",
    "PackedModel", "SentModel", "StructureModel", "list_models", "load_model", "pack_model", "phases_to_find",
    "with_phases",
]  # fmt: skip
