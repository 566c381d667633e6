# The one list of public names: lazy_loader reads it, and so do editors and type checkers.
from . import (
    bragg_vectors as bragg_vectors,
    calibration as calibration,
    checks as checks,
    crystals as crystals,
    data as data,
    electrons as electrons,
    evaluation as evaluation,
    frames as frames,
    gui as gui,
    identification as identification,
    images as images,
    metrics as metrics,
    microstructure as microstructure,
    models as models,
    networks as networks,
    orientation as orientation,
    patterns as patterns,
    plot as plot,
    preprocessing as preprocessing,
    quartets as quartets,
    refinement as refinement,
    results as results,
    rotations as rotations,
    scans as scans,
    simulated as simulated,
    simulation as simulation,
    strain as strain,
    study as study,
    symmetry as symmetry,
    template_matching as template_matching,
    tilt as tilt,
    training as training,
)
from .bragg_vectors import (
    bragg_vectors_to_file as bragg_vectors_to_file,
    match_disks as match_disks,
    predict_bragg_vectors as predict_bragg_vectors,
)
from .calibration import FoundCalibration as FoundCalibration, calibrate as calibrate
from .crystals import load_phases as load_phases, structures as structures
from .evaluation import Evaluation as Evaluation, evaluate as evaluate
from .frames import Calibration as Calibration
from .gui import Explorer as Explorer, explore as explore
from .identification import Identified as Identified, identify_phases as identify_phases
from .images import (
    LatticeMap as LatticeMap,
    PhaseFieldFit as PhaseFieldFit,
    classify_structure as classify_structure,
    fit_phase_field as fit_phase_field,
    get_symmetry_descriptors as get_symmetry_descriptors,
    map_lattice as map_lattice,
    segment_by_symmetry as segment_by_symmetry,
)
from .microstructure import Grains as Grains, grains as grains, settle as settle
from .models import (
    BraggModel as BraggModel,
    OrientationEnsemble as OrientationEnsemble,
    OrientationModel as OrientationModel,
    StructureModel as StructureModel,
    list_models as list_models,
    load_model as load_model,
    pack_model as pack_model,
)
from .orientation import (
    iter_predict_orientation as iter_predict_orientation,
    predict_orientation as predict_orientation,
    to_orientation_map as to_orientation_map,
)
from .patterns import Probe as Probe
from .quartets import make_quartets as make_quartets, open_quartets as open_quartets
from .records import Provenance as Provenance, provenance as provenance
from .refinement import refine_orientation as refine_orientation
from .results import (
    calibrated_vectors as calibrated_vectors,
    calibration_of as calibration_of,
    convert_result as convert_result,
    open_result as open_result,
    read_labels as read_labels,
    to_py4dstem as to_py4dstem,
)
from .scans import find_bad_pixels as find_bad_pixels, load_arina as load_arina, load_scan as load_scan
from .simulated import simulate_patterns as simulate_patterns
from .strain import Strain as Strain, strain_map as strain_map
from .template_matching import match_templates as match_templates
from .tilt import TiltMap as TiltMap, tilt_map as tilt_map
from .training import (
    finetune as finetune,
    train as train,
    train_bragg as train_bragg,
    train_structures as train_structures,
)

__version__: str
