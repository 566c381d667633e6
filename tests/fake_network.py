"""A small network for tests of what lies around networks: its predictions depend on the pattern, and cost nothing."""

from functools import lru_cache

import torch
from torch import nn

from pyxem_dl import rotations
from pyxem_dl.models import OrientationModel
from pyxem_dl.networks import OrientationCandidates
from pyxem_dl.preprocessing import PolarPreprocessing

N_NODES = 16


class FakeNetwork(nn.Module):
    """Fixed random orientations, weighted by the radial profile of the pattern."""

    def __init__(self, laue_groups, n_k=12, seed=0):
        super().__init__()
        self.arguments = {"laue_groups": list(laue_groups), "n_k": n_k, "seed": seed}
        generator = torch.Generator().manual_seed(seed)
        self.score = nn.Linear(n_k, N_NODES)
        self.score.weight.data = torch.randn(N_NODES, n_k, generator=generator)
        self.score.bias.data = torch.zeros(N_NODES)
        self.empty = nn.Linear(n_k, 1)
        self.empty.weight.data = torch.full((1, n_k), 0.05)
        self.empty.bias.data = torch.full((1,), 1.0)
        self.register_buffer("nodes", rotations.random_rotations(N_NODES, generator), persistent=False)
        self.register_buffer("node_phase", torch.arange(N_NODES) % len(laue_groups), persistent=False)

    def predict(self, polar, n_best=2):
        profile = polar[:, 0].mean(2)
        contrast = 8 * (profile - profile.mean(1, keepdim=True))
        p, index = self.score(contrast).float().softmax(1).topk(n_best, dim=1)
        angle = profile.float().mean(1, keepdim=True).expand_as(p)
        found = rotations.rotate_in_plane(self.nodes[index], angle)
        crystal = torch.sigmoid(self.empty(profile).float())[:, 0]
        return OrientationCandidates(found, self.node_phase[index], p, crystal)


@lru_cache  # nobody changes these phases
def make_phase(name="MgO", a=4.2, space_group=225, elements=(("Mg", (0, 0, 0)), ("O", (0.5, 0.5, 0.5)))):
    from diffpy.structure import Atom, Lattice, Structure
    from orix.crystal_map import Phase

    lattice = Lattice(a, a, 1.6 * a, 90, 90, 120) if 143 <= space_group <= 194 else Lattice(a, a, a, 90, 90, 90)
    structure = Structure(lattice=lattice, atoms=[Atom(e, xyz) for e, xyz in elements])
    return Phase(name=name, space_group=space_group, structure=structure).expand_asymmetric_unit()


def make_model(n_phases=1, **changes):
    phases = [make_phase(), make_phase("Ti", 2.95, 194, (("Ti", (1 / 3, 2 / 3, 0.25)),))][:n_phases]
    settings = {
        "network_name": "fake",
        "network": FakeNetwork([phase.point_group.laue.name for phase in phases]),
        "preprocessing": PolarPreprocessing(0.9, n_k=12, n_phi=24),
        "phases": phases,
        "domain": {
            "beam_energy": 200.0,
            "reciprocal_radius": 0.9,
            "scale": [0.05, 0.2],
            "disk_radius": [0.0, 0.05],
        },
        "name": "fake-200kv",
        "description": "A fake for the tests.",
    }
    return OrientationModel(**(settings | changes))
