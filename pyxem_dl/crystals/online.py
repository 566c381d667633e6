"""Structures of databases on the network: the Materials Project, and all that speak OPTIMADE.

The Materials Project is asked through its REST interface, one documented address, and not through its client mp-api:
that brings pymatgen, pyarrow, deltalake and boto3 for a single question, follows redirects with the user's key, and
sets no bound to what it reads.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl

import numpy as np

from pyxem_dl.crystals.cif import CifStructure, Site
from pyxem_dl.crystals.downloads import Host
from pyxem_dl.crystals.elements import known, known_type
from pyxem_dl.crystals.space_groups import cell_of_metric
from pyxem_dl.crystals.writing import printable

MATERIALS_PROJECT = "https://api.materialsproject.org"
#: Environment variable with the user's key
KEY = "MP_API_KEY"
#: Base addresses of databases that speak OPTIMADE, and how their structures may be used
PROVIDERS = {
    "alexandria": ("https://alexandria.icams.rub.de/pbe", "CC-BY-4.0"),
    "cod": ("https://www.crystallography.net/cod/optimade", "CC0-1.0"),
    "mp": ("https://optimade.materialsproject.org", "CC-BY-4.0"),
    "odbx": ("https://optimade.odbx.science", "CC-BY-4.0"),
    "oqmd": ("https://oqmd.org/optimade", "CC-BY-4.0"),
    "tcod": ("https://www.crystallography.net/tcod/optimade", "CC0-1.0"),
}
_PAGE = 100
_FIELDS = ("lattice_vectors", "cartesian_site_positions", "species", "species_at_sites", "nperiodic_dimensions",
           "structure_features", "chemical_formula_reduced")  # fmt: skip
#: Features of OPTIMADE's structures of which the atoms are not what is listed
_INCOMPLETE = {
    "implicit_atoms": "not all of its atoms are listed",
    "site_attachments": "some of its atoms are attached to others, without positions",
    "assemblies": "its disorder is correlated",
}
#: Pages without a structure, one after the other, after which a database is given up
_MOST_EMPTY_PAGES = 5
_NOT_OURS = {"api_key", "apikey", "key", "x-api-key"}


@dataclass(frozen=True)
class Found:
    """A structure of a database.

    Parameters
    ----------
    id : str
        Of the structure, with that of the database.
    source, licence : str
        For the manifest.
    structure : CifStructure or None
        None if it cannot be used.
    reason : str
        Why it cannot be used.
    """

    id: str
    source: str
    licence: str
    structure: CifStructure | None = None
    reason: str = ""


class Answers:
    """Structures of a database, page by page.

    Attributes
    ----------
    total : int or None
        How many the database says that it has; known after the first page.
    """

    def __init__(self, pages: Iterator, limit: int) -> None:
        self._pages, self._limit = pages, limit
        self.total: int | None = None

    def __iter__(self) -> Iterator[Found]:
        left, empty = self._limit, 0
        for found, total in self._pages:
            self.total = total
            empty = 0 if found else empty + 1
            if empty >= _MOST_EMPTY_PAGES:
                return
            yield from found[:left]
            left -= len(found)
            if left <= 0:
                return


# --------------------------------------------------------------------------------------------------- Materials Project


def materials_project(query: str, *, limit: int, max_atoms: int, timeout: float) -> Answers:
    """Ask the Materials Project.

    Parameters
    ----------
    query : str
        Numbers (``mp-149,mp-13``), a chemical system (``Li-Ni-O``, ``Si-*``), a formula (``MgO``, ``*2O3``), or
        parameters of its interface (``elements=O,Ti&is_stable=true&nsites_max=20``).
    limit, max_atoms : int
        How many structures are read at most, and how many atoms they have at most.
    timeout : float
        Seconds for each answer.

    Raises
    ------
    ValueError
        If the query is none.
    PermissionError
        If there is no key.
    """
    parameters = _parameters(query)
    host = Host("The Materials Project", MATERIALS_PROJECT, timeout, {"X-API-KEY": _key()})
    return Answers(_materials_project(host, parameters, limit, max_atoms), limit)


def _key() -> str:
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise PermissionError(
            f"The Materials Project needs your key, in the environment variable {KEY}. Get one at "
            "https://materialsproject.org/api; it is not saved anywhere. Without one, 'optimade:mp?...' and "
            "'optimade:cod?...' need none"
        )
    if not re.fullmatch(r"[A-Za-z0-9_-]{8,200}", key):
        raise PermissionError(
            f"What is in the environment variable {KEY} is no key of the Materials Project: letters, digits, - and _"
        )
    return key


def _parameters(query: str) -> dict[str, str]:
    """Read a query for the Materials Project."""
    query = query.strip()
    if re.fullmatch(r"(mp|mvc)-\w+(\s*,\s*(mp|mvc)-\w+)*", query):
        return {"material_ids": re.sub(r"\s", "", query)}
    if "=" in query:
        pairs = parse_qsl(query, keep_blank_values=True)
        wrong = [key for key, _ in pairs if key.startswith("_") or key.lower() in _NOT_OURS or not key.isidentifier()]
        if wrong or not pairs:
            name = printable(wrong[0] if wrong else query)
            raise ValueError(f"'mp:...': {name!r} is no parameter of a search for materials.")
        return dict(pairs)
    parts = query.split("-")
    if len(parts) > 1 and all(part == "*" or known(part) for part in parts):
        return {"chemsys": query}
    if len(parts) == 1 and re.fullmatch(r"([A-Z*][A-Za-z0-9.*()]{0,99})", query):
        return {"formula": query}
    raise ValueError(
        f"{printable('mp:' + query)!r} is no query for the Materials Project. Give numbers ('mp:mp-149,mp-13'), a "
        "chemical system ('mp:Li-Ni-O'), a formula ('mp:MgO') or parameters ('mp:elements=O,Ti&is_stable=true')."
    )


def _materials_project(host: Host, parameters: dict, limit: int, max_atoms: int) -> Iterator:
    asked = {"deprecated": "false"} | parameters | {"_fields": "material_id,formula_pretty,structure,builder_meta"}
    read = 0
    while read < limit:
        answer = host.get("materials/summary/", asked | {"_limit": str(min(_PAGE, limit - read)), "_skip": str(read)})
        documents, total = answer.get("data"), _count(answer.get("meta"), "total_doc")
        if not isinstance(documents, list):
            raise ValueError("The answer of The Materials Project has no list of materials ('data').")
        yield [_of_document(document, max_atoms) for document in documents], total
        read += len(documents)
        if not documents or (total is not None and read >= total):
            return


def _of_document(document, max_atoms: int) -> Found:
    """Read a material of the Materials Project."""
    document = document if isinstance(document, dict) else {}
    name = printable(document.get("material_id") or "without a number")
    meta = document.get("builder_meta")
    licence = meta.get("license") if isinstance(meta, dict) else None
    licence = licence if isinstance(licence, str) else None
    licence = {None: "CC-BY-4.0", "BY-C": "CC-BY-4.0", "BY-NC": "CC-BY-NC-4.0"}.get(licence) or printable(licence)
    try:
        structure = document["structure"]
        sites = [
            (str(each["element"]), each.get("occu", 1), site["abc"])
            for site in structure["sites"][: max_atoms + 1]
            for each in site["species"]
        ]
        lattice = _numbers(structure["lattice"]["matrix"], (3, 3))
        xyz = _numbers([place for _, _, place in sites] or np.zeros((0, 3)), (len(sites), 3))
        listed = len(structure["sites"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return Found(name, "mp", licence, reason="its structure is missing or incomplete")
    formula = printable(document.get("formula_pretty") or "", 60)
    return _found(
        name, "mp", licence, lattice, [(e, n) for e, n, _ in sites], xyz, listed, max_atoms, f"{formula} {name}"
    )


# ------------------------------------------------------------------------------------------------------------ OPTIMADE


def optimade(query: str, *, limit: int, max_atoms: int, timeout: float) -> Answers:
    """Ask a database that speaks OPTIMADE.

    Parameters
    ----------
    query : str
        Name or base address, and a filter behind a question mark: ``cod?elements HAS ALL "Mg","O" AND nelements=2``.
    limit, max_atoms : int
        How many structures are read at most, and how many atoms they have at most.
    timeout : float
        Seconds for each answer.

    Raises
    ------
    ValueError
        If there is no such database.
    """
    place, _, wanted = query.partition("?")
    place, wanted = place.strip(), wanted.strip().removeprefix("filter=").strip()
    if "://" in place:
        name, base, licence = printable(place.partition("://")[2].rstrip("/")), place, "see the database"
    elif place in PROVIDERS:
        name, (base, licence) = place, PROVIDERS[place]
    else:
        raise ValueError(
            f"{printable(place)!r} is no OPTIMADE database known here: {', '.join(PROVIDERS)}. Give one of these, or a "
            "base address: 'optimade:https://example.org/optimade?...'."
        )
    host = Host(f"The database {name}", base, timeout)
    return Answers(_optimade(host, f"optimade:{name}", licence, wanted, limit, max_atoms), limit)


def _optimade(host: Host, source: str, licence: str, wanted: str, limit: int, max_atoms: int) -> Iterator:
    path = "structures" if re.search(r"/v\d[.\d]*$", host.base) else "v1/structures"
    parameters = {"response_fields": ",".join(_FIELDS), "page_limit": str(min(_PAGE, limit))}
    answer, seen = host.get(path, parameters | ({"filter": wanted} if wanted else {})), set()
    while True:
        documents, total = answer.get("data"), _count(answer.get("meta"), "data_returned")
        if not isinstance(documents, list):
            raise ValueError(f"The answer of {host.name} has no list of structures ('data'). Does it speak OPTIMADE?")
        yield [_of_resource(document, source, licence, max_atoms) for document in documents], total
        links = answer.get("links")
        following = links.get("next") if isinstance(links, dict) else None
        following = following.get("href") if isinstance(following, dict) else following
        if not isinstance(following, str) or not following:
            return
        # an address without a host is meant for the same
        following = host.same(following if "://" in following else f"{host.base}/{following.lstrip('/')}")
        if following in seen:
            raise ValueError(f"{host.name} sends the same page again and again. Narrow the query.")
        seen.add(following)
        answer = host.get(following)


def _of_resource(document, source: str, licence: str, max_atoms: int) -> Found:
    """Read a structure in OPTIMADE's form."""
    document = document if isinstance(document, dict) else {}
    entries = document.get("attributes")
    entries = entries if isinstance(entries, dict) else {}
    id = printable(document.get("id") or "without a number")

    def no(reason: str) -> Found:
        return Found(id, source, licence, reason=reason)

    features = entries.get("structure_features")
    for feature in features if isinstance(features, list) else ():
        if isinstance(feature, str) and feature in _INCOMPLETE:
            return no(_INCOMPLETE[feature])
    if entries.get("nperiodic_dimensions") not in (3, None):
        return no("it is not periodic in three dimensions")
    if entries.get("cartesian_site_positions") is None or entries.get("lattice_vectors") is None:
        return no("it has no positions of atoms")
    try:
        lattice = _numbers(entries["lattice_vectors"], (3, 3))
        listed = len(entries["cartesian_site_positions"])
        if listed > max_atoms:
            return no(_too_many(listed, max_atoms))
        cartesian = _numbers(entries["cartesian_site_positions"] or np.zeros((0, 3)), (listed, 3))
        species = {each["name"]: _contents(each) for each in entries["species"]}
        sites = [
            (element, share, place)
            for name, place in zip(entries["species_at_sites"], cartesian @ np.linalg.inv(lattice), strict=True)
            for element, share in species[name]
        ]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, np.linalg.LinAlgError):
        return no("its structure is incomplete or contradicts itself")
    xyz = np.array([place for _, _, place in sites]).reshape(-1, 3)
    formula = printable(entries.get("chemical_formula_reduced") or "", 60)
    content = [(element, share) for element, share, _ in sites]
    return _found(id, source, licence, lattice, content, xyz, listed, max_atoms, f"{formula} {id}")


def _contents(species: dict) -> list[tuple[str, float]]:
    """Elements of a species with their shares; vacancies are left out."""
    shares = _numbers(species["concentration"], (len(species["chemical_symbols"]),))
    pairs = zip(species["chemical_symbols"], shares, strict=True)
    return [(str(symbol), float(share)) for symbol, share in pairs if symbol != "vacancy"]


# ---------------------------------------------------------------------------------------------------------------- both


def _found(id, source, licence, lattice, content, xyz, listed, max_atoms, name) -> Found:
    """Make a structure of a lattice (rows, Å), contents (element, occupancy) and fractional coordinates."""
    if listed > max_atoms:
        return Found(id, source, licence, reason=_too_many(listed, max_atoms))
    if not content:
        return Found(id, source, licence, reason="it has no atoms")
    try:
        shares = _numbers([share for _, share in content], (len(content),))
    except (TypeError, ValueError, OverflowError):
        return Found(id, source, licence, reason="its occupancies are no numbers")
    if shares.min() < -1e-9 or shares.max() > 1.05:
        return Found(id, source, licence, reason=f"an occupancy is {shares.max():.3g}")
    unknown = {element for element, _ in content if len(element) > 20 or known_type(element) is None}
    if unknown:
        return Found(id, source, licence, reason=f"{printable(sorted(unknown)[0], 20)!r} is no element")
    sites = [
        Site(f"{element}{i + 1}", element, tuple(float(x) for x in place), float(np.clip(share, 0, 1)))
        for i, ((element, _), share, place) in enumerate(zip(content, shares, xyz, strict=True))
        if share > 1e-3
    ]
    if not sites:
        return Found(id, source, licence, reason="all of its sites are empty")
    try:
        with np.errstate(all="ignore"):
            cell = cell_of_metric(lattice @ lattice.T)
    except (ValueError, FloatingPointError):
        return Found(id, source, licence, reason="its cell is no cell")
    structure = CifStructure(where=id, block=name.strip() or id, cell=cell, sites=sites, all_atoms=True)
    return Found(id, source, licence, structure)


def _too_many(n: int, max_atoms: int) -> str:
    return f"it has {n} atoms, more than max_atoms={max_atoms}"


def _numbers(values, shape: tuple) -> np.ndarray:
    """Array of finite numbers of a given shape."""
    array = np.array(values, dtype=float)
    if array.shape != shape or not np.isfinite(array).all() or (array.size and np.abs(array).max() > 1e4):
        raise ValueError(shape)
    return array


def _count(meta, key: str) -> int | None:
    """Read how many structures there are; None if the database does not say."""
    value = meta.get(key) if isinstance(meta, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
