"""Which element an atom's label or type means, and what a chemical formula counts."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pyxem_dl.crystals.cif import Site

_VACANCIES = {"va", "vac", "vacancy", "vacancies", "x", "□", "void"}
#: Labels of groups of atoms: where the hydrogens of these are, nobody knows.
_GROUPS = {"oh", "ow", "wat", "water", "hoh", "ho", "nh", "wa", "w", "me", "et", "ph"}
_FORMULA_PART = re.compile(r"([A-Z][a-z]?)(\d{0,6}(?:\.\d{1,6})?)")
_GROUP_FORMULA = re.compile(r"H2O|H3O|NH[234]|OH|CO[23]$|NO[23]$|SO4|PO4")
# What may follow an element in a type: a charge, a number, a hybridisation
_AFTER_TYPE = re.compile(r"[0-9.]*[+-]?[0-9.]*|[+-][IV0]+|[0-9]*[_'\"*(].*")


class Ambiguous(ValueError):
    """A label that may mean two elements: both are in ``readings``."""

    def __init__(self, readings: tuple[str, str]):
        super().__init__(" or ".join(readings))
        self.readings = readings


def known(symbol: str) -> str | None:
    """Return an element that diffsims has scattering factors of, H for its isotopes; else None."""
    from diffsims.utils.lobato_scattering_params import ATOMIC_SCATTERING_PARAMS_LOBATO

    symbol = {"D": "H", "T": "H"}.get(symbol, symbol)
    return symbol if symbol in ATOMIC_SCATTERING_PARAMS_LOBATO else None


def is_vacancy(site: Site) -> bool:
    """Whether a site is said to be empty."""
    letters = re.match(r"[^\W\d_]*|□", site.text.strip())[0]
    if letters == "VA" and site.type_symbol is None:
        return False  # vanadium "VA1" in a file of capitals
    return letters.lower() in _VACANCIES


def known_type(text: str) -> str | None:
    """Element of an ``_atom_site_type_symbol``, or of an atom in diffpy: ``Mg2+``, ``O-II``, ``Cval``, ``CU``."""
    # of an isotope as 7Li the element
    text = re.sub(r"^\d{1,3}(?=[A-Z][a-z]?$)", "", text.strip())
    letters = re.match(r"[A-Za-z]*", text)[0]
    if not _AFTER_TYPE.fullmatch(text[len(letters) :]) or _GROUP_FORMULA.match(text):
        return None
    if len(letters) <= 2 and letters.lower() not in _GROUPS - {"w", "ho"}:
        # in capitals or small letters throughout, as some programs write them
        return known(letters.capitalize())
    # scattering factors of valence shells are called Cval and Siva
    match = re.fullmatch(r"([A-Z][a-z]?)(val|va|v)", letters)
    return known(match[1]) if match else None


def read_label(label: str) -> str:
    """Element of an ``_atom_site_label`` such as ``Fe3+``, ``Cu1A``, ``Al_1``, ``Oap`` or ``D1``.

    Raises
    ------
    Ambiguous
        Where two elements are possible, the longer symbol first.
    ValueError
        Where none is.
    """
    letters = re.match(r"[A-Za-z]*", label.strip())[0]
    group = letters.lower() in _GROUPS and letters not in ("W", "Ho")
    # "Fe1/Ni1" is no atom, but a mixed site, and H2O is three
    if group or re.match(r"H[23]O", label) or re.search(r"[/,&]\s*[A-Za-z]", label):
        raise ValueError(label)
    first, two = letters[:1].upper(), letters[:2]
    long = known(two.capitalize()) if len(two) == 2 else None
    # T is a tetrahedral site in many a silicate, and tritium where the type says so
    short = known(first) if first != "T" else None
    if long and letters[1].islower() and letters[0].isupper():
        # "Cax": an axial carbon, or calcium x?
        if len(letters) > 2 and letters[2].islower() and short:
            raise Ambiguous((long, short))
        return long
    if long and short:
        raise Ambiguous((long, short))
    if long or short:
        return long or short
    raise ValueError(label)


def elements_of(sites: Iterable[Site], formula: dict[str, float] | None, where: str, notes: list[str]) -> list[str]:
    """Elements of sites, by their types, else by their labels with the formula's help.

    Raises
    ------
    ValueError
        If a site is of no known element, and says to give ``_atom_site_type_symbol``.
    """
    sites = list(sites)
    # where a two-letter symbol is written as it should be, capitals are no two-letter symbols
    careful = any(re.match(r"[A-Z][a-z]", site.label) and known(site.label[:2]) for site in sites)
    found, doubts = [], {}
    for site in sites:
        element = known_type(site.type_symbol) if site.type_symbol else None
        if element is None and site.type_symbol:
            raise ValueError(
                f"{where}: {site.type_symbol!r} is not an element that diffsims knows. Correct _atom_site_type_symbol "
                f"of the site {site.label!r}."
            )
        try:
            found.append(element or read_label(site.label))
        except Ambiguous as error:
            readings = [r for r in error.readings if not formula or r in formula] or list(error.readings)
            chosen = readings[0 if len(readings) == 1 or not (careful and site.label[:2].isupper()) else 1]
            if len(readings) > 1:
                other = next(r for r in readings if r != chosen)
                doubts[site.label] = f"{site.label} is read as {chosen}, not as {other}"
            found.append(chosen)
        except ValueError:
            raise ValueError(
                f"{where}: the label {site.label!r} does not name an element. Give _atom_site_type_symbol in the file "
                "(for a group such as OH or H2O, list its atoms one by one)."
            ) from None
    if doubts:
        notes.append(f"sites without types: {'; '.join(list(doubts.values())[:6])}. Give _atom_site_type_symbol")
    return found


def read_formula(text: str | None) -> dict[str, float] | None:
    """Atoms of a chemical formula such as ``"Mo S2"`` or ``"Fe0.95 O"``; None where it is none."""
    if not text:
        return None
    parts = re.sub(r"[\s'\"]+", " ", text).strip()[:2000]
    counts: dict[str, float] = {}
    for part in parts.split(" "):
        # a charge that stands alone, or an unclosed wish of the author's
        if re.fullmatch(r"\d*[+-]", part):
            continue
        position = 0
        for match in _FORMULA_PART.finditer(part):
            if match.start() != position or known(match[1]) is None:
                return None
            counts[known(match[1])] = counts.get(known(match[1]), 0.0) + float(match[2] or 1)
            position = match.end()
        if position != len(part):
            return None
    return {element: n for element, n in counts.items() if n > 0} or None
