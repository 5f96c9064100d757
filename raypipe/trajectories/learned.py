"""Learned trajectories: what a recurrent network that writes a sequence again keeps of it in its states."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from raypipe.config import LearnConfig, validate
from raypipe.errors import RaypipeError, UsageError, check_type
from raypipe.packages import one_torch_thread
from raypipe.progress import Progress
from raypipe.runs.directory import Run
from raypipe.schema import Trajectories, finite_or_none
from raypipe.storage import shown

if TYPE_CHECKING:
    from raypipe.trajectories.network import Seq2SeqNetwork
    from raypipe.trajectories.training import Training

_LOOKS = 20  # The silhouette is measured at most so many times: each takes as long as some epochs.
_LOOKED_AT = 1000  # It takes the square of so many states.
_CHECKPOINT_S = 5.0  # The seconds of work that a kill may cost.
_OF_NETWORK = ("hidden_size", "cell", "layers", "bidirectional", "decoder", "target")
_OF_TRAINING = ("learning_rate", "batch_size", "clip_norm", "patience", "held_out")


class Seq2SeqEmbedder(TransformerMixin, BaseEstimator):
    """An embedding of sequences of vectors by the last state of a recurrent encoder.

    Encoder and decoder learn to write each sequence again, or to go on with it from its first step, without any label;
    the decoder is weakened so that the state has to carry the sequence (Su, Liu & Shlizerman 2020, "Predict & Cluster:
    Unsupervised Skeleton Based Action Recognition", arXiv 1905.12176). Learning ends when the loss on held-out
    sequences does not become better, and the best weights are kept. On the CPU one thread learns, so that the
    same seed gives the same bits on any number of cores.

    Parameters
    ----------
    hidden_size
        Numbers of the state; even if the encoder is bidirectional, which then has a half for each way.
    cell
        "gru" or "lstm".
    layers
        Layers of the encoder; the decoder has one.
    bidirectional
        Whether the encoder reads sequences backwards too.
    decoder
        "free"; "fixed_weights": its weights stay as they were drawn, all but the map from its state to a step;
        "fixed_state": each step gets the encoder's last state in place of the decoder's own.
    target
        "reconstruct": a sequence is written from its state alone; "predict": from its first step too.
    epochs
        At most; 0 leaves the network as it was drawn.
    patience
        Epochs without a better loss after which learning ends.
    learning_rate, batch_size, clip_norm
        Of Adam; the norm is that which a batch's gradient is clipped to.
    held_out
        Part of the sequences, 0 ≤ held_out < 1, on which the loss is held out; with none the loss of training counts.
    n_clusters
        Where given, the silhouette of so many clusters (k-means) in the states is measured some times while learning.
    random_state
        Seed of weights, of the order of sequences and of those held out.
    device
        torch's name of a device; "auto" is a GPU where there is one, else the CPU.

    Attributes
    ----------
    history_
        Dicts of ``epoch``, ``loss`` (the mean absolute error of standardised numbers), ``held_out`` and ``silhouette``
        (None where not measured), from epoch 0, the network as it was drawn.
    best_epoch_
        That whose weights were kept.
    n_held_out_
        How many sequences were held out.
    n_features_in_
        Numbers of a step.
    """

    def __init__(
        self,
        hidden_size: int = 256,
        *,
        cell: Literal["gru", "lstm"] = "gru",
        layers: int = 1,
        bidirectional: bool = False,
        decoder: Literal["fixed_weights", "fixed_state", "free"] = "free",
        target: Literal["reconstruct", "predict"] = "reconstruct",
        epochs: int = 100,
        patience: int = 15,
        learning_rate: float = 0.003,
        batch_size: int = 64,
        clip_norm: float = 1.0,
        held_out: float = 0.1,
        n_clusters: int | None = None,
        random_state: int = 0,
        device: str = "auto",
    ) -> None:
        self.hidden_size = hidden_size
        self.cell = cell
        self.layers = layers
        self.bidirectional = bidirectional
        self.decoder = decoder
        self.target = target
        self.epochs = epochs
        self.patience = patience
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.clip_norm = clip_norm
        self.held_out = held_out
        self.n_clusters = n_clusters
        self.random_state = random_state
        self.device = device

    def fit(
        self,
        paths: Any,
        y: Any = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> Seq2SeqEmbedder:
        """Learn from sequences.

        Parameters
        ----------
        paths
            n sequences: (n, T, dim), a list of (T_i, dim), or `raypipe.Trajectories`.
        y
            Not used.
        checkpoint
            A file, local or a URL, that keeps what was learned so far, without pickles. If it is there, and was made
            by the same parameters of the same sequences, learning goes on from it, to the same bits as without a break.
        progress
            Where epochs, losses and the time left are shown; by default nowhere.

        Returns
        -------
        The estimator.

        Raises
        ------
        UsageError
            If a parameter is out of range, or ``paths`` are no sequences of one dim.
        RaypipeError
            If a sequence has a NaN or infinite value.
        """
        self._how = self._check()
        sequences = read_sequences(paths)
        stacked = np.concatenate(sequences)
        mean = stacked.mean(axis=0, dtype=np.float64)
        # One scale for all numbers keeps their relation: noise in one that hardly changes is not blown up, and what was
        # weighted stays so.
        scale = float(np.sqrt(np.mean(stacked.var(axis=0, dtype=np.float64))))
        self.mean_, self.scale_ = mean.astype(np.float32), np.float32(scale or 1.0)
        self.n_features_in_ = len(mean)
        self._network = self._make_network()
        self._network.draw(np.random.default_rng(self._how.seed))
        with one_torch_thread():
            self._learn(self._standardise(sequences), _Checkpoint.of(checkpoint), progress or Progress())
        return self

    def transform(self, paths: Any) -> np.ndarray:
        """Return the encoder's last state of each sequence, (n, hidden_size) float32."""
        from raypipe.trajectories.training import encode_all

        return encode_all(self._fitted(), self._standardise(self._read(paths)))

    def states(self, paths: Any) -> list[np.ndarray]:
        """Return the decoder's states over time of each sequence: n of (T_i, hidden_size) float32."""
        from raypipe.trajectories.training import decode_all

        return decode_all(self._fitted(), self._standardise(self._read(paths)))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all that embedding needs, as plain arrays."""
        weights = {f"weight {name}": array for name, array in self._fitted().to_arrays().items()}
        parameters = {name: np.array(getattr(self._how, name)) for name in _OF_NETWORK}
        return {**parameters, "mean": self.mean_, "scale": np.array(self.scale_), **weights}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], device: str = "auto") -> Seq2SeqEmbedder:
        """Return the fitted estimator that `arrays` describe."""
        made = cls(**{name: arrays[name].item() for name in _OF_NETWORK}, device=device)
        made.mean_, made.scale_ = arrays["mean"], np.float32(arrays["scale"])
        made.n_features_in_ = len(made.mean_)
        made._how = made._check()
        made._network = made._make_network()
        prefix = "weight "
        made._network.take({k.removeprefix(prefix): array for k, array in arrays.items() if k.startswith(prefix)})
        return made

    def _check(self) -> LearnConfig:
        """Return the parameters as Python's own numbers: a search over an array gives numpy's, which torch refuses."""
        check_type("n_clusters", self.n_clusters, (Integral, type(None)))
        given = {name: getattr(self, name) for name in (*_OF_NETWORK, *_OF_TRAINING, "epochs")}
        return validate(LearnConfig, {**given, "seed": self.random_state})

    def _make_network(self) -> Seq2SeqNetwork:
        import torch

        from raypipe.trajectories.network import Seq2SeqNetwork

        device = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        shape = {name: getattr(self._how, name) for name in _OF_NETWORK}
        # As the sequences are, also where the process has made another type torch's default.
        return Seq2SeqNetwork(self.n_features_in_, **shape).to(device, torch.float32)

    def _fitted(self) -> Seq2SeqNetwork:
        check_is_fitted(self, "mean_")
        return self._network

    def _read(self, paths: Any) -> list[np.ndarray]:
        self._fitted()
        sequences = read_sequences(paths)
        if sequences[0].shape[1] != self.n_features_in_:
            raise UsageError(f"a step has {sequences[0].shape[1]} numbers, and what was learned {self.n_features_in_}")
        return sequences

    def _standardise(self, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [((sequence - self.mean_) / self.scale_).astype(np.float32) for sequence in sequences]

    def _learn(self, sequences: list[np.ndarray], checkpoint: _Checkpoint | None, progress: Progress) -> None:
        from raypipe.trajectories.training import Schedule, Training

        how = {name: getattr(self._how, name) for name in _OF_TRAINING}
        epochs = self._how.epochs
        training = Training(self._network, sequences, Schedule(**how, seed=self._how.seed))
        made_of = self._fingerprint(sequences)
        if checkpoint and (kept := checkpoint.read(made_of)):
            training.take(kept)
        else:
            training.begin(self._look(sequences))
        every = -(-epochs // _LOOKS) if epochs else 1
        n_left = max(epochs - training.epoch, 0)
        with (progress if n_left else Progress()).count("learning", n_left, "epochs") as advance:
            while training.epoch < epochs and not training.is_stuck:
                training.run_epoch()
                if training.epoch % every == 0 or training.epoch == epochs:
                    training.record(self._look(sequences))
                if checkpoint and checkpoint.is_due:
                    checkpoint.write(made_of, training.to_arrays())
                advance(1, _tell(training))
        if checkpoint:
            checkpoint.write(made_of, training.to_arrays())
        training.take_best()
        names = ("epoch", "loss", "held_out", "silhouette")
        rows = [dict(zip(names, row, strict=True)) for row in training.history]
        self.history_ = [{name: finite_or_none(value) for name, value in row.items()} for row in rows]
        self.best_epoch_, self.n_held_out_ = training.best_epoch, training.n_held_out

    def _look(self, sequences: list[np.ndarray]) -> float:
        """Return the silhouette of clusters in the present states; not a number where it is not asked for."""
        from sklearn.metrics import silhouette_score

        from raypipe.clustering.vectors import cluster_vectors
        from raypipe.trajectories.training import encode_all

        if not self.n_clusters or not 1 < self.n_clusters < len(sequences):
            return float("nan")
        states = encode_all(self._network, sequences[:: -(-len(sequences) // _LOOKED_AT)])
        labels = cluster_vectors(states, min(self.n_clusters, len(states) - 1), n_init=3, max_iter=300, seed=0).labels
        return float(silhouette_score(states, labels)) if len(set(labels)) > 1 else float("nan")

    def _fingerprint(self, sequences: Sequence[np.ndarray]) -> str:
        """Return what the learned weights depend on; not for how many epochs at most, or where, they are learned."""
        told = {name: getattr(self._how, name) for name in (*_OF_NETWORK, *_OF_TRAINING)}
        told["random_state"] = self._how.seed
        digest = hashlib.sha256(repr(told).encode())
        for sequence in sequences:
            digest.update(np.int64(len(sequence)).tobytes() + sequence.tobytes())
        return digest.hexdigest()


class _Checkpoint:
    """A file of arrays that keeps what was learned so far, and of what."""

    def __init__(self, run: Run, name: str) -> None:
        self._run, self._name = run, name
        self._written = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether so much would be lost by a kill that writing is worth its time."""
        return time.monotonic() - self._written > _CHECKPOINT_S

    @classmethod
    def of(cls, place: str | os.PathLike[str] | None) -> _Checkpoint | None:
        check_type("checkpoint", place, (str, os.PathLike, type(None)), "a file's name or URL")
        if place is None:
            return None
        folder, _, name = os.fspath(place).rpartition("/")
        return cls(Run(folder or str(Path.cwd())), name)

    def read(self, made_of: str) -> dict[str, np.ndarray] | None:
        """Return the arrays, unless there is no file or it was made of something else."""
        if not self._run.exists(self._name):
            return None
        try:
            with np.load(io.BytesIO(self._run.read_bytes(self._name)), allow_pickle=False) as file:
                arrays = dict(file)
        except (ValueError, OSError, KeyError) as error:
            where = shown(self._run.place(self._name))
            raise RaypipeError(f"cannot read {where}: {error}; remove it to begin anew") from error
        return arrays if str(arrays.get("made_of")) == made_of else None

    def write(self, made_of: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the file whole."""
        sink = io.BytesIO()
        named: dict[str, Any] = {**arrays, "made_of": np.array(made_of)}
        np.savez(sink, **named)
        self._run.write_bytes(self._name, sink.getvalue())
        self._written = time.monotonic()


def read_sequences(paths: Any) -> list[np.ndarray]:
    """Return sequences as (T_i, dim) float32 arrays.

    Raises
    ------
    UsageError
        If there are none, or they do not have one dim.
    RaypipeError
        If one has a NaN or infinite value.
    """
    ids = paths.video_ids if isinstance(paths, Trajectories) else None
    given = paths.values if isinstance(paths, Trajectories) else paths
    given = list(np.atleast_1d(given)) if hasattr(given, "__array__") else given  # torch's and pandas' have it.
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise UsageError("paths must be one or more sequences: (n, T, dim), or a list of (T_i, dim)")
    found: list[np.ndarray] = []
    for number, path in enumerate(given):
        name = f"of video {ids[number]}" if ids else str(number)
        if np.ndim(path) != 2 or 0 in np.shape(path) or np.asarray(path).dtype.kind not in "fiu":
            raise UsageError(f"sequence {name} has the shape {np.shape(path)}; each must be (T, dim) numbers")
        sequence = np.asarray(path, np.float32)
        if found and sequence.shape[1] != found[0].shape[1]:
            raise UsageError(f"sequence {name} has {sequence.shape[1]} numbers a step, the first {found[0].shape[1]}")
        if not np.isfinite(sequence).all():
            raise RaypipeError(f"sequence {name} has NaN or infinite values")
        found.append(sequence)
    return found


def _tell(training: Training) -> str:
    _, loss, held_out, _ = training.history[-1]
    return f"loss {loss:.3f}" + ("" if np.isnan(held_out) else f", held out {held_out:.3f}")
