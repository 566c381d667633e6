"""Many phases at once: the same templates and proposals, sooner and in less memory; and what they cost is said."""

import sys

import pytest
import torch
from sample_phases import phase

from pyxem_dl.crystals import ReflectionTable, find_spots, reflections
from pyxem_dl.preprocessing import PolarPreprocessing
from pyxem_dl.simulation import PatternSimulator, SimulationSettings
from pyxem_dl.symmetry import disorientation_angle, proper_operations
from pyxem_dl.templates import TemplateBank, proposals
from pyxem_dl.templates.drawing import draw_spectra
from pyxem_dl.templates.proposals import Proposer

GRID = PolarPreprocessing(0.9, n_k=40)


# ---------------------------------------------------------------- the same answers, sooner
@pytest.mark.parametrize("name", ["Al", "LiNiO2", "ZrO2"])  # cubic, trigonal, monoclinic
def test_templates_of_low_frequencies_are_those_of_a_bank_of_all(name):
    proposer = Proposer.from_phases([phase(name)], 200.0, GRID, 8.0)
    grid = PolarPreprocessing(0.9, n_k=20, gamma=0.25)
    bank = TemplateBank.from_phases([phase(name)], 200.0, grid, float(proposer.resolution[0]))
    n = len(proposer.templates) // 2
    low = bank.spectra[1 : n + 1]
    low = low / low.abs().square().sum((0, 1)).sqrt()
    # of the conjugate: the real part of a product is re * re - im * im, the imaginary one re * im + im * re
    real, imaginary = proposer.templates[:n], proposer.templates[n:]
    torch.testing.assert_close(proposer.quaternions, bank.quaternions)
    torch.testing.assert_close(torch.cat([low.real, -low.imag], 1), real, atol=2e-6, rtol=0)
    torch.testing.assert_close(torch.cat([low.imag, low.real], 1), imaginary, atol=2e-6, rtol=0)


def test_spots_are_drawn_as_the_formula_says():
    generator = torch.Generator().manual_seed(0)
    k, phi, amplitude = (torch.rand(30, generator=generator) for _ in range(3))
    k, phi, owner = 0.9 * k, 6.28 * phi, torch.arange(30) % 3
    radius, step = 0.02, 0.9 / GRID.n_k
    order = torch.arange(73)
    expected = torch.zeros(3, GRID.n_k, 73, dtype=torch.complex64)
    for i in range(30):
        angular = radius / max(float(k[i]), radius)
        shape = amplitude[i] * angular * torch.exp(-0.5 * (order * angular) ** 2) * torch.sinc(order / 144) ** 2
        for ring in range(GRID.n_k):
            if abs(ring - int(k[i] / step)) <= 3:
                weight = torch.exp(-0.5 * (((ring + 0.5) * step - k[i]) / radius) ** 2)
                expected[owner[i], ring] += weight * shape * torch.exp(-1j * order * phi[i])
    found = draw_spectra(3, owner, k, phi, amplitude, GRID, radius)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    few = draw_spectra(3, owner, k, phi, amplitude, GRID, radius, 10)
    assert torch.equal(few, found[..., :10])


def test_templates_in_parts_propose_the_same(monkeypatch):
    phases = [phase("Al"), phase("LiNiO2")]
    made = PatternSimulator(phases, 200, 0.9, SimulationSettings(), seed=1)(12)
    polar, valid = GRID.resample(made.patterns, made.calibration)
    proposer = Proposer.from_phases(phases, 200.0, GRID, 5.0)
    whole = proposer(polar, valid, 12)
    monkeypatch.setattr(proposals, "_TEMPLATES_AT_ONCE", {"cpu": 100})
    assert len(proposer) > 300
    parts = proposer(polar, valid, 12)
    torch.testing.assert_close(parts.score, whole.score, atol=1e-5, rtol=0)
    assert set(parts.phase_id.unique().tolist()) == {0, 1}
    # rounding chooses among what is as good: a template that is symmetric about the beam has several best angles
    same = parts.template == whole.template
    assert float(same.float().mean()) > 0.85
    for i, each in enumerate(phases):
        here = same & (whole.phase_id == i)
        operations = proper_operations(each).expand(int(here.sum()), -1, -1)
        away = disorientation_angle(parts.rotations[here], whole.rotations[here], operations, modulo_180=True)
        assert float((away.rad2deg() < 0.1).float().mean()) > 0.95


def test_reflections_of_many_crystals_are_found_in_parts(monkeypatch):
    lists = [reflections(phase(name), 1.0) for name in ("Al", "LiNiO2")]
    table = ReflectionTable.stack(lists, 200.0)
    rotations = torch.nn.functional.normalize(torch.randn(40, 4, generator=torch.Generator().manual_seed(1)), dim=1)
    phase_id = torch.arange(40) % 2
    whole = find_spots(table, phase_id, rotations, 200.0, n_spots=20)
    room = sys.modules[find_spots.__module__]
    monkeypatch.setattr(room, "_ROWS_AT_ONCE", {"cpu": 7 * table.g.shape[1]})
    parts = find_spots(table, phase_id, rotations, 200.0, n_spots=20)
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
    assert parts.kx.shape == (40, 20)
