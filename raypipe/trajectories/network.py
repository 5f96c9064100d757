"""The recurrent encoder and decoder of learned trajectories, in torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence


class Seq2SeqNetwork(nn.Module):
    """An encoder that reads a sequence into one state, and a decoder that writes the sequence from it.

    The decoder is given no step of the sequence but perhaps the first (no teacher forcing): it reads what it wrote
    last. It is weakened, so that the state has to carry the sequence (Su, Liu & Shlizerman 2020, "Predict & Cluster",
    section 3).

    Parameters
    ----------
    dim
        Numbers of a step.
    hidden_size
        Numbers of the state; a bidirectional encoder has a half for each way.
    cell
        "gru" or "lstm".
    layers
        Layers of the encoder. The decoder has one.
    bidirectional
        Whether the encoder reads the sequence backwards too.
    decoder
        "fixed_weights": the decoder's cell keeps the weights that it was drawn with, and only the map from its state to
        a step learns. "fixed_state": the cell gets the encoder's state at every step in place of its own. "free".
    target
        "reconstruct": all steps are written from the state. "predict": the decoder reads the first step, and writes the
        others, each as a change of the one before it.
    """

    def __init__(
        self, dim: int, hidden_size: int, cell: str, layers: int, bidirectional: bool, decoder: str, target: str
    ) -> None:
        super().__init__()
        self.target, self._decoder, self._is_lstm = target, decoder, cell == "lstm"
        self._n_ways = 2 if bidirectional else 1
        each = hidden_size // self._n_ways
        recurrent = nn.LSTM if self._is_lstm else nn.GRU
        self.encoder = recurrent(dim, each, layers, batch_first=True, bidirectional=bidirectional)
        self.cell = (nn.LSTMCell if self._is_lstm else nn.GRUCell)(dim, hidden_size)
        self.output = nn.Linear(hidden_size, dim)
        if decoder == "fixed_weights":
            self.cell.requires_grad_(False)

    def draw(self, rng: np.random.Generator) -> None:
        """Draw all weights: matrices as Glorot & Bengio (2010), vectors as torch does, of this generator's numbers."""
        bound = 1 / math.sqrt(self.output.in_features)
        with torch.no_grad():
            for weight in self.parameters():
                limit = math.sqrt(6 / sum(weight.shape)) if weight.dim() == 2 else bound
                drawn = rng.uniform(-limit, limit, tuple(weight.shape)).astype(np.float32)
                weight.copy_(torch.from_numpy(drawn))

    def encode(self, steps: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return the last state of each sequence, (n, hidden_size), of (n, T, dim) steps padded at their ends."""
        packed: Any = steps
        if int(lengths.min()) < steps.shape[1]:
            packed = pack_padded_sequence(steps, lengths, batch_first=True, enforce_sorted=False)
        _, last = self.encoder(packed)
        last = last[0] if self._is_lstm else last
        return torch.cat(list(last[-self._n_ways :]), dim=1)

    def decode(self, state: torch.Tensor, first: torch.Tensor, n_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Write sequences from their states.

        Parameters
        ----------
        state
            (n, hidden_size).
        first
            (n, dim), the first steps; read only where the target is to predict.
        n_steps
            Steps to write: T, or T − 1 where the first is given.

        Returns
        -------
        (n, n_steps, dim), and the decoder's states, (n, n_steps, hidden_size).
        """
        predicts = self.target == "predict"
        step = first if predicts else torch.zeros_like(first)
        own, memory = state, torch.zeros_like(state)
        steps, states = [], []
        for _ in range(n_steps):
            if self._decoder == "fixed_state":
                own, memory = state, torch.zeros_like(state)
            if self._is_lstm:
                own, memory = self.cell(step, (own, memory))
            else:
                own = self.cell(step, own)
            step = self.output(own) + step if predicts else self.output(own)
            steps.append(step)
            states.append(own)
        return torch.stack(steps, dim=1), torch.stack(states, dim=1)

    def losses(self, steps: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return how far each sequence is missed, (n,): the mean absolute error of its own steps, as in the paper."""
        skipped = 1 if self.target == "predict" else 0
        wanted = steps[:, skipped:]
        counts = (lengths - skipped).to(steps.device)
        if not wanted.shape[1]:  # Sequences of one step leave nothing to predict.
            return 0 * self.encode(steps, lengths).sum(dim=1)
        written, _ = self.decode(self.encode(steps, lengths), steps[:, 0], wanted.shape[1])
        is_own = torch.arange(wanted.shape[1], device=steps.device)[None] < counts[:, None]
        errors = (written - wanted).abs().mean(dim=2) * is_own
        return errors.sum(dim=1) / counts.clamp(min=1)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the weights by name."""
        return {name: weight.detach().cpu().numpy().copy() for name, weight in self.state_dict().items()}

    def take(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take weights that `to_arrays` returned."""
        self.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})


def pad(sequences: Sequence[np.ndarray], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad sequences, (T_i, dim) float32 each, at their ends: (n, T, dim) on the device, and (n,) lengths on the CPU."""
    lengths = [len(sequence) for sequence in sequences]
    steps = np.zeros((len(sequences), max(lengths), sequences[0].shape[1]), np.float32)
    for row, sequence in zip(steps, sequences, strict=True):
        row[: len(sequence)] = sequence
    return torch.from_numpy(steps).to(device), torch.tensor(lengths)
