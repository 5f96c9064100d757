"""The autoencoder's network, of layers of weighted geometric means, and its training; this module imports torch.

A layer takes z of any sign, (n, i), and makes it positive by 1 + ELU(z). Its outputs are weighted geometric means of
these, prod x_i^w_i = exp(Σ w_i log x_i), with the weights of an output normalised to Σ |w_i| = 1; a negative weight
takes the reciprocal. So the logarithm of an output lies within those of the inputs and their reciprocals, and nothing
can overflow in any number of layers. What such a mean takes away of the spread, a batch norm gives back. The logarithm
is computed without the exponential: log(1 + ELU(z)) is z for z ≤ 0, and log(1 + z) else, so that it is never that
of 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from raypipe.packages import one_torch_thread

_WIDTH, _LAYERS = 128, 3
_BATCH, _BUDGET, _RATE = 256, 1500, 0.01  # Points a step, steps, and the highest learning rate.
_TRIPLES = 12  # Pairs of others to which a point of a batch is compared.
_GROWTH = 1.5  # See `_Losses`. With 1 the map fills the plane more, with 2 it keeps more neighbours: docs/maps.md.
_CODE_SD = 0.3  # Small enough that tanh, which ends at 1, cuts off few points.
_FLOOR = 1e-4  # Shares of the mean squared distance below which distances count as no smaller; duplicates have 0.


class GeometricMean(nn.Module):
    """A layer of weighted geometric means and its batch norm, from (n, i) to (n, o)."""

    def __init__(self, n_inputs: int, n_outputs: int, generator: torch.Generator):
        super().__init__()
        self.raw = nn.Parameter(torch.randn(n_outputs, n_inputs, generator=generator, dtype=torch.float32))
        self.norm = nn.BatchNorm1d(n_outputs, dtype=torch.float32)

    @property
    def weights(self) -> torch.Tensor:
        """The normalised weights, (o, i)."""
        return self.raw / self.raw.abs().sum(1, keepdim=True)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Map (n, i) numbers of any sign to (n, o)."""
        logs = torch.where(z > 0, torch.log1p(z.clamp_min(0)), z)
        return self.norm(torch.exp(logs @ self.weights.T))


class Autoencoder(nn.Module):
    """Layers of geometric means, ELU and a tanh code; the decoder is linear.

    All of it is float32, as the points are, also where the process has made another type torch's default.
    """

    def __init__(self, dim: int, n_components: int, generator: torch.Generator):
        super().__init__()
        widths = [dim] + [_WIDTH] * _LAYERS
        self.layers = nn.ModuleList(GeometricMean(i, o, generator) for i, o in pairwise(widths))
        self.code = nn.Linear(_WIDTH, n_components, dtype=torch.float32)
        self.decoder = nn.Linear(n_components, dim, dtype=torch.float32)
        for linear in (self.code, self.decoder):  # torch's own start would draw from its global generator.
            nn.init.zeros_(linear.bias)
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5, generator=generator)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, dim) to codes, (n, n_components), from −1 to 1."""
        for layer in self.layers:
            x = layer(x)
        return torch.tanh(self.code(F.elu(x)))

    def layer_arrays(self) -> dict[str, np.ndarray]:
        """Return the encoder as plain arrays, batch norms as the ``scale`` and ``shift`` that they have come to."""
        found = {}
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, GeometricMean)
            assert layer.norm.running_mean is not None and layer.norm.running_var is not None
            scale = layer.norm.weight / torch.sqrt(layer.norm.running_var + layer.norm.eps)
            found[f"layer{number}_weights"] = layer.weights
            found[f"layer{number}_scale"] = scale
            found[f"layer{number}_shift"] = layer.norm.bias - layer.norm.running_mean * scale
        found.update(code_weights=self.code.weight, code_bias=self.code.bias)
        return {name: value.detach().cpu().numpy() for name, value in found.items()}


def train(
    points: np.ndarray, n_components: int, seed: int, follows: np.ndarray | None, smoothness: float, device: str
) -> dict[str, np.ndarray]:
    """Train an autoencoder on (n, dim) float32 points of about unit variance; return its encoder's arrays.

    The number of steps is fixed, and so is the schedule of the learning rate, which ends at 0: it has settled then,
    and takes as long for a million points as for a thousand.

    Parameters
    ----------
    points
        (n, dim) float32, of unit mean variance; n is 2 or more.
    n_components, seed
        Those of the reducer.
    follows
        (n − 1,) bool: whether a point's next one is the step that follows it in the same video; None if not known.
    smoothness
        The weight of the term that draws these together.
    device
        torch's name of the device. On the CPU the result depends on the seed alone, for one thread does all sums.
    """
    generator = torch.Generator().manual_seed(seed)
    network = Autoencoder(points.shape[1], n_components, generator).to(device)
    x = torch.from_numpy(points).to(device)
    losses = _Losses(x, n_components, generator)
    pairs = torch.from_numpy(np.flatnonzero(follows)) if follows is not None and smoothness else torch.empty(0)
    optimizer = torch.optim.Adam(network.parameters(), _RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_BUDGET, pct_start=0.1)
    batches = _endless_batches(len(points), generator)
    with one_torch_thread():
        for _ in range(_BUDGET):
            rows = next(batches)
            batch = x[rows.to(device)]
            code = network.encode(batch)
            loss = losses.reconstruction(network.decoder(code), batch)
            loss = loss + losses.spread(code) + losses.log_ratio(batch, code)
            if len(pairs):
                first = pairs[torch.randint(len(pairs), (min(_BATCH // 4, len(pairs)),), generator=generator)].to(
                    device
                )
                steps = network.encode(x[torch.cat([first, first + 1])])
                here, there = steps.chunk(2)
                loss = loss + smoothness * losses.step_length(here, there)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.layer_arrays()


class _Losses:
    """The terms of the loss.

    The log-ratio term compares, for random points a, b and c, log(ab / ac) on the map with the same in the input. In
    many dimensions all distances are much alike, and no map in two can have them so. So the input's logarithms are
    first multiplied by one number, for which their standard deviation is `_GROWTH` times that of distances between
    points spread evenly over the map. A distance d then becomes d^growth, as the number of points within d does.
    """

    def __init__(self, x: torch.Tensor, n_components: int, generator: torch.Generator):
        self._generator, self._variance = generator, x.var(0).sum()
        a, b = (x[torch.randint(len(x), (4096,), generator=generator).to(x.device)] for _ in range(2))
        squared = ((a - b) ** 2).sum(1)
        self._floor = _FLOOR * squared.mean()
        even = torch.rand(2, 4096, n_components, generator=generator, dtype=torch.float32)
        spread = ((even[0] - even[1]) ** 2).sum(1).log().std()
        self._growth = float(_GROWTH * spread / squared[squared > self._floor].log().std().clamp_min(1e-3))
        self._code_floor = _FLOOR * 2 * n_components * _CODE_SD**2

    def reconstruction(self, decoded: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        """Return the part of the variance that the decoder does not give back."""
        return ((decoded - batch) ** 2).sum(1).mean() / self._variance

    def spread(self, code: torch.Tensor) -> torch.Tensor:
        """Return how far the code is from mean 0 and standard deviation `_CODE_SD` along each axis."""
        return (code.mean(0) ** 2).sum() + ((code.std(0) - _CODE_SD) ** 2).sum()

    def log_ratio(self, batch: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        """Return the mean squared difference of log-ratios of distances over random triples of the batch."""
        n = len(batch)
        others = torch.randint(n, (2 * _TRIPLES, n), generator=self._generator).to(batch.device)
        apart = others != torch.arange(n, device=batch.device)
        wanted = self._growth * self._logs(batch, others, self._floor)
        found = self._logs(code, others, self._code_floor)
        difference = torch.where(apart, found - wanted, 0)
        one, other = difference.chunk(2)
        return ((one - other) ** 2 * (apart[:_TRIPLES] & apart[_TRIPLES:])).mean()

    def step_length(self, here: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Return the mean squared length of steps on the map, over that between random points."""
        return ((here - there) ** 2).sum(1).mean() / (2 * here.shape[1] * _CODE_SD**2)

    @staticmethod
    def _logs(points: torch.Tensor, others: torch.Tensor, floor: torch.Tensor | float) -> torch.Tensor:
        """Return log distances of each point to some others, given as (m, n) rows: (m, n)."""
        if points.shape[1] <= 3:
            squared = ((points - points[others]) ** 2).sum(2)
        else:  # In many dimensions one product of matrices for all pairs is quicker.
            squares = (points**2).sum(1)
            squared = (squares + squares[:, None] - 2 * points @ points.T).clamp_min(0).gather(1, others.T).T
        return 0.5 * torch.log(squared + floor)


def _endless_batches(n: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield the rows of one batch after another; every row comes once before any comes again, but for remainders."""
    size = min(_BATCH, n)
    while True:
        order = torch.randperm(n, generator=generator)
        for start in range(0, n - size + 1, size):
            yield order[start : start + size]
