"""Make ``pyxem_dl/_data/prototypes.json``: crystals by AFLOW prototype, from the table that pymatgen carries.

pymatgen (MIT licence) holds the first part of the AFLOW Library of Crystallographic Prototypes (doi
10.1016/j.commatsci.2017.01.017) for matching structures, as primitive cells in which all atoms are listed. Here spglib
finds each crystal's standard cell and its asymmetric unit, so that a line of the table is what a paper would print:
space group, cell, sites. What pymatgen's file has wrong or that no experiment has seen is left out, see `LEFT_OUT`.

    python docs/make_prototypes.py pymatgen-*.whl pymatgen_core-*.whl

The wheels are only read (`pip download --no-deps pymatgen pymatgen-core`); nothing of them is run.
"""

import argparse
import gzip
import json
import re
import zipfile
from math import gcd
from pathlib import Path

import numpy as np
import spglib

from pyxem_dl.crystals.prototypes import distances, phase_of_entry, standard

OUTPUT = Path(__file__).resolve().parent.parent / "pyxem_dl" / "_data" / "prototypes.json"
#: Of spglib, in Å: the symmetry that AFLOW's label names is found with it, and no higher one
SYMPREC = 1e-3
LEFT_OUT = {
    "AB3_tI16_140_b_ah": "its coordinates are those of a cell of 4 atoms, not of SiU3 with its 16",
    "AB_mP4_11_e_e": "Ti and Ni 1.45 Å apart, 51 % of the sum of their covalent radii",
    "AB2_oF72_43_ab_3b": "S and S 1.28 Å apart, 61 %",
    "AB2_hP24_194_ef_fgh": "Mg and Mg 1.46 Å apart, 52 %",
    "ABC_cP12_198_a_a_a": "Ni and Sb 1.03 Å apart, 39 %",
    "A_cI16_206_c": "BC8 silicon with 4.4 Å³ per atom; it has 17",
    "sigma_tP30_136_bf2ij": "CrFe with another element on each site, to tell them apart",
    "A_tI4_139_e": "BCT5 silicon: predicted",
    "A_tP12_96_ab": "ST12 silicon: predicted",
    "AB3_oC8_65_a_bf": "CdPt3: predicted",
    "A2B_mP12_3_bc3e_2e": "SiO2 made by simulated annealing",
}
#: Higher symmetry than the label says is in the coordinates themselves
HIGHER = {"A2B_oC12_38_de_ab": 63}


def main():
    """Read the wheels, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pymatgen", type=Path, help="wheel of pymatgen, with aflow_prototypes.json.gz")
    parser.add_argument("core", type=Path, help="wheel of pymatgen-core, with periodic_table.json.gz")
    arguments = parser.parse_args()
    prototypes = read(arguments.pymatgen, "aflow_prototypes.json.gz")
    order = {name: number(element.get("X")) for name, element in read(arguments.core, "periodic_table.json.gz").items()}
    entries = [entry for each in prototypes if (entry := crystal(each, order))]
    names = [spellings(entry) for entry in entries]
    for entry, own in zip(entries, names):
        entry["name"] = next(name for i, name in enumerate(own) if [each[i] for each in names].count(name) == 1)
        entry["id"] = f"{entry['prototype']}:{entry['formula']}"
    entries.sort(key=lambda entry: (entry["number"], entry["id"]))
    for key in ("id", "name"):
        values = [entry[key] for entry in entries]
        assert len(set(values)) == len(values), [v for v in values if values.count(v) > 1]
    for entry in entries:
        found = standard(phase_of_entry(entry))
        entry["orbits"] = [kind.orbits for kind in found.kinds]
        entry["distances"] = [round(float(x), 3) for x in distances(found)]
    missing = sorted(set(LEFT_OUT) - {each["tags"]["aflow"] for each in prototypes})
    assert not missing, missing
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    OUTPUT.write_text(f'{{"version": 1, "entries": [\n{lines}\n]}}\n', encoding="utf-8")
    print(f"{len(entries)} of {len(prototypes)} crystals, {OUTPUT.stat().st_size / 1e3:.0f} kB: {OUTPUT}")


def read(wheel: Path, name: str):
    """Read a packed JSON file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (member for member in archive.namelist() if member.endswith(name))
        return json.loads(gzip.decompress(archive.read(path)))


def number(value) -> float:
    """Electronegativity, for the order of elements in formulas; elements without one come first."""
    return float(value) if isinstance(value, (int, float)) and np.isfinite(value) else 0.0


def crystal(each: dict, order: dict) -> dict | None:
    """Line of the table; None for what is left out."""
    structure, tags = each["snl"], each["tags"]
    label, reference = tags["aflow"], structure["about"]["references"]
    if label in LEFT_OUT or "Hypothetical" in reference or "Theoretical" in tags["mineral"]:
        return None
    elements = [site["species"][0]["element"] for site in structure["sites"]]
    assert all(len(site["species"]) == 1 and site["species"][0]["occu"] == 1 for site in structure["sites"])
    kinds = sorted(set(elements))
    cell = (
        np.array(structure["lattice"]["matrix"]),
        np.array([site["abc"] for site in structure["sites"]]),
        [kinds.index(element) for element in elements],
    )
    found = spglib.get_symmetry_dataset(cell, symprec=SYMPREC)
    assert found.number == HIGHER.get(label, int(label.split("_")[2])), (label, found.number)
    standard = found.std_lattice, found.std_positions, found.std_types
    assert len(found.std_types) == int(tags["pearson"][2:]) * (3 if tags["pearson"].startswith("hR") else 1), label
    # spglib lays the atoms of its standard cell onto their special positions
    orbits = spglib.get_symmetry_dataset(standard, symprec=SYMPREC).equivalent_atoms
    sites = [[kinds[found.std_types[i]], *(round(float(x), 6) % 1 for x in found.std_positions[i])]
             for i in np.unique(orbits)]  # fmt: skip
    return {
        "id": "", "name": "", "formula": formula(elements, order), "prototype": label, "pearson": tags["pearson"],
        "strukturbericht": known(tags["strukturbericht"]), "mineral": known(tags["mineral"].replace("\\'{c}", "c")),
        "number": found.number, "hall": found.hall_number, "cell": parameters(found.std_lattice), "sites": sites,
        "reference": citation(reference),
    }  # fmt: skip


def spellings(entry: dict) -> tuple[str, ...]:
    """Names for a crystal, the shortest first: with the space group, and with the Wyckoff letters."""
    short = f"{entry['formula']} {entry['pearson']}"
    return short, f"{short} {entry['number']}", f"{short} {'_'.join(entry['prototype'].split('_')[2:])}"


def known(text: str) -> str | None:
    """Text of a tag; None where it says nothing."""
    return text.strip() if text.strip() not in ("", "None") else None


def formula(elements: list[str], order: dict) -> str:
    """Reduced formula, electropositive elements first."""
    counts = {element: elements.count(element) for element in sorted(set(elements), key=lambda e: (order[e], e))}
    shared = gcd(*counts.values())
    return "".join(f"{element}{n // shared if n > shared else ''}" for element, n in counts.items())


def parameters(lattice: np.ndarray) -> list[float]:
    """Lengths in Å and angles in degrees."""
    metric = lattice @ lattice.T
    lengths = np.sqrt(np.diag(metric))
    angles = [np.rad2deg(np.arccos(metric[i, j] / lengths[i] / lengths[j])) for i, j in ((1, 2), (0, 2), (0, 1))]
    return [round(float(x), 5) for x in (*lengths, *angles)]


def citation(bibtex: str) -> str:
    """First reference, who determined the structure: authors, journal, volume, first page, year."""
    first = bibtex.split("@article{Mehl2017")[0]
    fields = dict(re.findall(r'(\w+) = "(.*?)"', first, re.DOTALL))
    authors = fields.get("author", "").split(" and ")
    authors = authors[:1] + ["et al."] if len(authors) > 3 else authors
    words = [" and ".join(authors).replace(" and et al.", " et al."), fields.get("journal", ""),
             fields.get("volume", ""), fields.get("page_first", ""), f"({fields.get('year', '')})"]  # fmt: skip
    text = " ".join(word.strip() for word in words if word.strip() not in ("", "None", "0"))
    return re.sub(r"\\[a-z]+|[{}$\\]", "", " ".join(text.split()))[:160]


if __name__ == "__main__":
    main()
