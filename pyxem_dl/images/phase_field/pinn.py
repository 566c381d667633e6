"""The engine "network": a smooth network of place and time whose equation's residual is a loss, the published way."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from pyxem_dl.devices import on_one_core
from pyxem_dl.images.phase_field.equations import Equation
from pyxem_dl.images.phase_field.problem import DRIFT, Coordinates
from pyxem_dl.images.phase_field.solver import Interrupted, Search, SolverEngine
from pyxem_dl.networks.images.fields import FieldNetwork, Jet

# Steps, those before the equation is looked at, pixels a step, and rates of learning of the network and the parameters
_STEPS, _ALONE, _BATCH, _RATE, _OWN_RATE = 1200, 250, 3072, 4e-3, 2e-2
# Weight of the residual at the end, in values of the data at unit residual, and steps between two reports
_WEIGHT, _REPORT = 100.0, 20
# Shortest lengths that the network tells easily (px, frames), frames that are computed together, and the seed
_LENGTH, _TIME, _CHUNK, _SEED = 6.0, 12.0, 4, 0
# The order parameter goes a little beyond the plateaus where it is conserved
_BEYOND = 1.1


@dataclass
class NetworkEngine(SolverEngine):
    """Trains a network of (x, y, t) and the parameters together; the fields are those of :class:`SolverEngine`."""

    def run(self, series) -> Search:
        """Fit a series, all frames at once."""
        coordinates = Coordinates(self.equation, self.guess.noise, self.drift)
        torch.manual_seed(_SEED)
        conserved = self.equation.name == "cahn-hilliard"
        self._network = FieldNetwork(2 if conserved else 1, _LENGTH, _TIME).to(self.device)
        self._parameters = torch.nn.Parameter(coordinates.pack(self._begin()).to(self.device))
        frames = series.shape[0]
        self._used = np.flatnonzero(np.ones(frames, bool) if self.held_out is None else ~self.held_out)
        interrupted, values = False, None
        try:
            self._train(series, coordinates)
        except (KeyboardInterrupt, Interrupted):
            interrupted = True
        values = {name: float(v) for name, v in coordinates.unpack(self._parameters.detach()).items()}
        errors = dict.fromkeys(values, float("inf")) if interrupted else self._errors(series, coordinates)
        fitted = FittedNetwork(self._network.cpu().eval(), self.equation, values, series.shape)
        chunks = [_CHUNK] * (frames // _CHUNK) + ([frames % _CHUNK] if frames % _CHUNK else [])
        return Search(values, errors, fitted, tuple(chunks), interrupted)

    def _train(self, series, coordinates: Coordinates) -> None:
        seen = torch.from_numpy(series.read(slice(0, series.shape[0]))).to(self.device)
        optimizer = torch.optim.Adam(
            [{"params": self._network.parameters(), "lr": _RATE}, {"params": [self._parameters], "lr": _OWN_RATE}]
        )
        rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS, 1e-5)
        generator = torch.Generator().manual_seed(_SEED)
        for step in range(_STEPS):
            data, residual = self._losses(seen, coordinates, generator)
            share = 0.0 if step < _ALONE else _WEIGHT * min(1.0, (step - _ALONE) / _ALONE)
            optimizer.zero_grad(set_to_none=True)
            (data + share * residual).backward()
            optimizer.step()
            rates.step()
            if step % _REPORT == 0:
                values = {name: float(v) for name, v in coordinates.unpack(self._parameters.detach()).items()}
                if self.on_step((step + 1) / _STEPS, values) is False:
                    raise Interrupted

    def _losses(self, seen: torch.Tensor, coordinates: Coordinates, generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean misfit of some pixels, and mean squared residual there, in units of what a front does in a frame."""
        used = torch.from_numpy(self._used)
        which = [used[torch.randint(len(used), (_BATCH,), generator=generator)]]
        which += [torch.randint(n, (_BATCH,), generator=generator) for n in seen.shape[1:]]
        t, y, x = (each.to(self.device) for each in which)
        values = coordinates.unpack(self._parameters)
        jet, residual = field_of(self._network, self.equation, values, torch.stack((x, y, t), 1).float())
        expected = values["background"] + values["contrast"] * jet.value
        if self.guess.noise.kind == "poisson":
            expected = torch.maximum(expected, 0.02 * values["contrast"].detach())
        return self.guess.noise.misfit(expected, seen[t, y, x]).mean(), residual.square().mean()

    def _errors(self, series, coordinates: Coordinates) -> dict[str, float]:
        """Errors for the field as it is: of the residual's regression on the parameters, and of the levels."""
        seen = torch.from_numpy(series.read(slice(0, series.shape[0]))).to(self.device)
        generator, n = torch.Generator().manual_seed(_SEED + 1), float(seen.numel())

        def loss(parameters):
            kept = self._parameters
            del self._parameters
            self._parameters = parameters
            try:
                data, residual = self._losses(seen, coordinates, generator.manual_seed(_SEED + 1))
            finally:
                self._parameters = kept
            return n * (data + _WEIGHT * residual)

        point = self._parameters.detach()
        curvature = torch.autograd.functional.hessian(loss, point).double().cpu()
        curvature += 1e-6 * torch.eye(len(point))
        covariance = torch.linalg.pinv(curvature)
        jacobian = torch.autograd.functional.jacobian(
            lambda x: torch.stack(list(coordinates.unpack(x).values())), point.double().cpu()
        )
        errors = (jacobian @ covariance @ jacobian.T).diagonal().clamp(min=0).sqrt()
        return {name: float(e) for name, e in zip(coordinates.unpack(point), errors, strict=True)}


def field_of(network: FieldNetwork, equation: Equation, values: dict, places: torch.Tensor) -> tuple[Jet, torch.Tensor]:
    """Order parameter with its derivatives at places (x, y, t), and the residual of the equation."""
    conserved = equation.name == "cahn-hilliard"
    out = network(places)
    jet = out.channel(0).tanh()
    d, length = values["diffusivity"], values["interface_length"]
    if conserved:
        jet = Jet(*(_BEYOND * each for each in jet))
    moving = jet.time
    if DRIFT[0] in values:
        moving = moving + values["drift_x"] * jet.x + values["drift_y"] * jet.y
    value = jet.value
    if not conserved:
        mixed = 1 - value * value
        pull = d * (jet.laplacian + 2 * value * mixed / length**2) + values["front_velocity"] / length * mixed
        return jet, moving - pull
    potential = out.channel(1)
    own = potential.value - (value**3 - value - length**2 / 2 * jet.laplacian)
    return jet, torch.cat((moving - d * potential.laplacian, own))


class FittedNetwork:
    """Grey values of the frames of a series by a network; dask knows it by its content.

    Parameters
    ----------
    network : FieldNetwork
        On the CPU.
    equation : Equation
        Whose field it is.
    values : dict of str to float
        Parameters, in px and frames.
    shape : tuple of int
        (frames, rows, columns).
    """

    def __init__(self, network: FieldNetwork, equation: Equation, values: dict, shape) -> None:
        self.network, self.equation, self.values, self.shape = network, equation, values, shape

    def __dask_tokenize__(self) -> tuple:
        content = hashlib.sha256(repr((self.equation.name, self.values, self.shape)).encode())
        for each in self.network.state_dict().values():
            content.update(each.numpy().tobytes())
        return type(self).__name__, content.hexdigest()

    def __call__(self, first: int, last: int) -> np.ndarray:
        """Grey values (n, rows, columns) of some frames."""
        rows, columns = self.shape[1:]
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        values = {name: torch.tensor(value) for name, value in self.values.items()}
        made = []
        with torch.inference_mode(), on_one_core():
            for t in range(first, last):
                places = torch.stack((x, y, torch.full_like(x, t)), -1).reshape(-1, 3).float()
                order = field_of(self.network, self.equation, values, places)[0].value.reshape(rows, columns)
                made.append((values["background"] + values["contrast"] * order).numpy())
        return np.stack(made).astype(np.float32)
