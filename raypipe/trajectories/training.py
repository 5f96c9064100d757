"""Training of the network of learned trajectories: epoch by epoch, so that it can go on where it was broken off."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from raypipe.trajectories.network import Seq2SeqNetwork, pad

_AT_ONCE = 256  # So many sequences are encoded at a time where nothing is learned: their steps stay in the cache.


class Schedule(NamedTuple):
    """How a network is trained.

    Attributes
    ----------
    learning_rate, batch_size, clip_norm
        Of the steps of Adam (Kingma & Ba 2015); the norm is that which a batch's gradient is clipped to.
    patience
        Epochs without a better loss after which training ends.
    held_out
        Part of the sequences on which the loss is held out; if that is none, the loss of training counts.
    seed
        Of the sequences held out and of the order in each epoch.
    """

    learning_rate: float
    batch_size: int
    clip_norm: float
    patience: int
    held_out: float
    seed: int


class Training:
    """A network in training.

    The order of an epoch is drawn from the seed and the epoch's number alone. So weights and Adam's moments are all
    that an epoch takes from those before it, and one that goes on from `to_arrays` has the same bits.

    Parameters
    ----------
    network
        The network, on its device.
    sequences
        n of (T_i, dim) float32.
    schedule
        How to train.

    Attributes
    ----------
    history
        (epoch, loss, held-out loss, silhouette) of each epoch so far; not a number for what was not measured. Epoch 0
        is the network as it was drawn.
    best_epoch
        That of the lowest loss.
    """

    def __init__(self, network: Seq2SeqNetwork, sequences: Sequence[np.ndarray], schedule: Schedule) -> None:
        self._network, self._sequences, self._schedule = network, sequences, schedule
        self._device = next(network.parameters()).device
        n = len(sequences)
        n_held_out = min(round(schedule.held_out * n), n - 1)
        shuffled = np.random.default_rng([schedule.seed, 0]).permutation(n)
        self._held_out, self._kept = np.sort(shuffled[:n_held_out]), np.sort(shuffled[n_held_out:])
        learning = [weight for weight in network.parameters() if weight.requires_grad]
        self._adam = torch.optim.Adam(learning, lr=schedule.learning_rate)
        self._best = network.to_arrays()
        self.history: list[tuple[int, float, float, float]] = []
        self.best_epoch = 0

    @property
    def n_held_out(self) -> int:
        """How many sequences are held out."""
        return len(self._held_out)

    @property
    def epoch(self) -> int:
        """The number of the last epoch; −1 before `begin`."""
        return len(self.history) - 1

    @property
    def is_stuck(self) -> bool:
        """Whether the loss has not become better for so many epochs that training ends."""
        return self.epoch - self.best_epoch >= self._schedule.patience

    def begin(self, silhouette: float) -> None:
        """Measure the network as it was drawn."""
        self.history.append((0, self._measure(self._kept), self._measure(self._held_out), silhouette))

    def run_epoch(self) -> None:
        """Learn from every sequence once."""
        number, size = self.epoch + 1, self._schedule.batch_size
        order = self._kept[np.random.default_rng([self._schedule.seed, number]).permutation(len(self._kept))]
        self._network.train()
        total = 0.0
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            losses = self._network.losses(*pad([self._sequences[i] for i in batch], self._device))
            self._adam.zero_grad()
            losses.mean().backward()
            torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._schedule.clip_norm)
            self._adam.step()
            total += float(losses.detach().sum())
        found = (number, total / len(order), self._measure(self._held_out), float("nan"))
        if _judged(found) < _judged(self.history[self.best_epoch]):
            self.best_epoch, self._best = number, self._network.to_arrays()
        self.history.append(found)

    def record(self, silhouette: float) -> None:
        """Record the silhouette of the states after the last epoch."""
        self.history[-1] = (*self.history[-1][:3], silhouette)

    def _measure(self, rows: np.ndarray) -> float:
        if not len(rows):
            return float("nan")
        self._network.eval()
        with torch.no_grad():
            found = [
                self._network.losses(*pad([self._sequences[i] for i in rows[at : at + _AT_ONCE]], self._device)).cpu()
                for at in range(0, len(rows), _AT_ONCE)
            ]
        return float(torch.cat(found).mean())

    def take_best(self) -> None:
        """Give the network the weights of the best epoch."""
        self._network.take(self._best)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return all that training needs to go on, as plain arrays."""
        arrays = {f"weight {name}": array for name, array in self._network.to_arrays().items()}
        arrays |= {f"best {name}": array for name, array in self._best.items()}
        for number, moments in self._adam.state_dict()["state"].items():
            arrays |= {f"adam {number} {name}": value.cpu().numpy().copy() for name, value in moments.items()}
        return {**arrays, "history": np.array(self.history), "best_epoch": np.array(self.best_epoch)}

    def take(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on from what `to_arrays` returned."""

        def named(kind: str) -> dict[str, np.ndarray]:
            return {name.partition(" ")[2]: array for name, array in arrays.items() if name.startswith(f"{kind} ")}

        self._network.take(named("weight"))
        self._best = named("best")
        state = copy.deepcopy(self._adam.state_dict())
        moments: dict[int, dict[str, Any]] = {}
        for name, array in named("adam").items():
            number, _, moment = name.partition(" ")
            moments.setdefault(int(number), {})[moment] = torch.from_numpy(np.array(array))
        self._adam.load_state_dict({**state, "state": moments})
        history = arrays["history"].tolist()
        self.history = [(int(epoch), loss, held_out, silhouette) for epoch, loss, held_out, silhouette in history]
        self.best_epoch = int(arrays["best_epoch"])


def encode_all(network: Seq2SeqNetwork, sequences: Sequence[np.ndarray]) -> np.ndarray:
    """Return the encoder's last state of each sequence, (n, hidden_size) float32."""
    device = next(network.parameters()).device
    network.eval()
    with torch.no_grad():
        found = [
            network.encode(*pad(sequences[at : at + _AT_ONCE], device)).cpu().numpy()
            for at in range(0, len(sequences), _AT_ONCE)
        ]
    return np.concatenate(found)


def decode_all(network: Seq2SeqNetwork, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the decoder's states over time of each sequence, (T_i, hidden_size) float32."""
    device = next(network.parameters()).device
    network.eval()
    found: list[np.ndarray] = []
    with torch.no_grad():
        for at in range(0, len(sequences), _AT_ONCE):
            steps, lengths = pad(sequences[at : at + _AT_ONCE], device)
            _, states = network.decode(network.encode(steps, lengths), steps[:, 0], steps.shape[1])
            found += [own[:n] for own, n in zip(states.cpu().numpy(), lengths.tolist(), strict=True)]
    return found


def _judged(found: tuple[int, float, float, float]) -> float:
    """Return the loss that counts: the one held out, or that of training where none is held out."""
    return found[1] if np.isnan(found[2]) else found[2]
