"""Phase-field equations, fitted to series of images: parameters with errors, and the series without noise."""

from pyxem_dl.images.phase_field.fitting import fit_phase_field
from pyxem_dl.images.phase_field.result import Parameter, Parameters, PhaseFieldFit

__all__ = ["Parameter", "Parameters", "PhaseFieldFit", "fit_phase_field"]
