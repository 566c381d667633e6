"""Electrons of a microscope: their energy as people and files write it, and their wavelength."""

from __future__ import annotations

import math
import re

import numpy as np

# Planck constant x speed of light (keV Angstrom) and electron rest energy (keV), CODATA 2018
_HC = 12.398419843320026
_ELECTRON_REST_ENERGY = 510.99895069


def electron_wavelength(beam_energy: float) -> float:
    """Relativistic wavelength of the electrons.

    Parameters
    ----------
    beam_energy : float
        Kinetic energy in keV (the microscope's voltage in kV).

    Returns
    -------
    float
        Wavelength in Angstrom.
    """
    return _HC / math.sqrt(beam_energy * (beam_energy + 2 * _ELECTRON_REST_ENERGY))


#: What can be done where a beam energy is missing; works for every class of signals
HOW_TO_SET_BEAM_ENERGY = (
    "Give `beam_energy=` (kV), or set it with "
    "`s.metadata.set_item(\"Acquisition_instrument.TEM.beam_energy\", 200)`."
)
# Energies (kV) that microscopes have; numbers that lie here after a division by 1000 were volts
_LOWEST_ENERGY, _HIGHEST_ENERGY = 1.0, 3000.0
_ENERGY_WORDS = {"volt": "V", "volts": "V", "kilovolt": "kV", "kilovolts": "kV", "electron_volt": "eV"}
_ENERGY_UNITS = {"": None, "kv": 1.0, "kev": 1.0, "v": 1e-3, "ev": 1e-3, "mv": 1e3, "mev": 1e3}


def read_beam_energy(value) -> float:
    """Read a beam energy as people and files write it.

    Parameters
    ----------
    value : float, str, quantity, or a list or array of one of these
        A number is in kV; a text or quantity may say ``kV``, ``keV``, ``V``, ``eV``, ``MV`` or ``MeV``.

    Returns
    -------
    float
        In kV.

    Raises
    ------
    ValueError
        For anything but a single positive number in the range of microscopes (1 to 3000 kV): 200000 alone may be volts,
        and is not guessed.
    """
    how = "The beam energy must be a number in kV, such as 200, or text with a unit, such as '200 kV'"
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    units = getattr(value, "units", getattr(value, "unit", None))
    if units is not None and (magnitude := getattr(value, "magnitude", getattr(value, "value", None))) is not None:
        short = hasattr(value, "magnitude") and not isinstance(units, str)  # pint's kV, which it writes out otherwise
        value = f"{magnitude} {units:~}" if short else f"{magnitude} {units}"
    if isinstance(value, bool) or value is None:
        raise ValueError(f"{how}, not {value!r}.")
    if not isinstance(value, str):
        array = np.asarray(value)
        if array.size != 1:
            raise ValueError(f"{how}, not {value!r}: give one value.")
        value = array.reshape(-1).tolist()[0]
    text = str(value).strip()
    match = re.fullmatch(r"([-+]?[0-9.,]*[0-9.](?:[eE][-+]?[0-9]+)?|nan|[-+]?inf)\s*([a-zA-Z]*)", text)
    unit = match and _ENERGY_WORDS.get(match[2].lower(), match[2])
    if not match or unit.lower() not in _ENERGY_UNITS:
        raise ValueError(f"{how}, not {value!r}.")
    if unit == "mV" or unit == "meV":  # thousandths of a volt
        raise ValueError(f"{how}, not {value!r}.")
    try:
        number = float(match[1])
    except ValueError as error:  # 200,000 and 1.2.3 may be read in two ways
        raise ValueError(f"{how}, not {value!r}.") from error
    energy = number * (_ENERGY_UNITS[unit.lower()] or 1.0)
    if math.isfinite(energy) and _LOWEST_ENERGY <= energy <= _HIGHEST_ENERGY:
        return energy
    hint = ""
    if _ENERGY_UNITS[unit.lower()] is None and math.isfinite(energy) and energy > 0:
        factor = 1e-3 if energy > _HIGHEST_ENERGY else 1e3
        if _LOWEST_ENERGY <= energy * factor <= _HIGHEST_ENERGY:
            meant = "volts" if factor < 1 else "megavolts"
            hint = f" If it was given in {meant}, it is {energy * factor:g} kV: give `beam_energy={energy * factor:g}`."
    raise ValueError(
        f"{value} is not the beam energy of a microscope: {energy:g} kV is not between {_LOWEST_ENERGY:g} and "
        f"{_HIGHEST_ENERGY:g} kV.{hint} " + HOW_TO_SET_BEAM_ENERGY
    )


def interaction_parameter(beam_energy: float) -> float:
    """Wavelength x relativistic mass factor, which makes structure factors potentials.

    Parameters
    ----------
    beam_energy : float
        Kinetic energy in keV.

    Returns
    -------
    float
        ``wavelength * (1 + E / E0)`` in Angstrom: the extinction distance of a
        reflection is ``pi * volume / (this * |F|)`` (Williams and Carter, *Transmission
        Electron Microscopy*, 2009, chapter 13), with ``|F|`` in Angstrom.
    """
    return electron_wavelength(beam_energy) * (1 + beam_energy / _ELECTRON_REST_ENERGY)


#: h² / (2 pi m e) in V Å²: of a structure factor F in Angstrom and the volume of the cell in Å³, the Fourier
#: coefficient of the potential in volts is V_g = this * F / volume (Kirkland, *Advanced Computing in Electron
#: Microscopy*, appendix C)
POTENTIAL = 47.87801


def potential_per_radian(beam_energy: float) -> float:
    """Projected potential that turns the phase of an electron wave by one radian.

    Parameters
    ----------
    beam_energy : float
        Kinetic energy in keV.

    Returns
    -------
    float
        In V Å: 1 / sigma, with sigma = 2 pi m e wavelength / h² the interaction constant (Kirkland, chapter 5).
    """
    return POTENTIAL / interaction_parameter(beam_energy)


def beam_energy_of(signal) -> float | None:
    """Beam energy in kV of a signal's metadata; None where they say none (or 0, as some readers write)."""
    value = signal.metadata.get_item("Acquisition_instrument.TEM.beam_energy")
    if value is None or (isinstance(value, str) and not value.strip()) or (np.size(value) == 1 and value == 0):
        return None
    return read_beam_energy(value)
