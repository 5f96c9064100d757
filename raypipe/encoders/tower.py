"""Running frames through an image tower: they are copied to the device, prepared there, and come back as vectors."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch

_IN_FLIGHT = 2  # While one batch is computed, the next is copied to the device.
_COPY_THREADS = 4  # A single thread copies only about as fast as a large GPU runs ViT-B-32.


class ImageTower:
    """A network that turns images into vectors, with the preparation of its frames.

    On a GPU the weights are bf16 and convolutions channels-last, frames are copied as bytes from pinned memory, and a
    batch is copied while the one before it is computed. On the CPU bf16 means autocast, which keeps sums in float32.

    Parameters
    ----------
    tower
        The network, compiled or not. It maps (n, 3, height, width) to (n, dim), or to a tuple that begins with this,
        and is changed in place.
    mean, std
        Mean and standard deviation of the three channels of its training images, on a scale from 0 to 1.
    device
        torch's name of a device.
    precision
        "fp32", "bf16", or "auto": bf16 on a GPU that computes it, else fp32.

    Attributes
    ----------
    precision
        "fp32" or "bf16".
    """

    def __init__(
        self,
        tower: torch.nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        device: str = "cpu",
        precision: str = "auto",
    ) -> None:
        self._device = torch.device(device)
        on_gpu = self._device.type == "cuda"
        bf16 = precision == "bf16" or (precision == "auto" and _computes_bf16(self._device))
        self.precision = "bf16" if bf16 else "fp32"
        self._autocasts = bf16 and not on_gpu
        self._dtype = torch.bfloat16 if bf16 and on_gpu else torch.float32
        self._tower = tower.eval().to(self._device, self._dtype)
        if on_gpu:
            self._tower = self._tower.to(memory_format=torch.channels_last)
        by_channel = (torch.tensor(values, device=self._device).view(1, 3, 1, 1) for values in (mean, std))
        channel_mean, channel_std = by_channel
        self._scale, self._shift = 1 / (255 * channel_std), -channel_mean / channel_std
        self._slots: list[_Slot] = []

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Encode uint8 (n, height, width, 3) RGB frames in one batch as float32 (n, dim)."""
        (vectors,) = self.batches(frames, len(frames))
        return vectors

    def batches(self, frames: Any, batch_size: int) -> Iterator[np.ndarray]:
        """Encode frames batch by batch.

        Parameters
        ----------
        frames
            uint8 (n, height, width, 3) RGB: an array, or a tensor on the device.
        batch_size
            Frames in a batch; the last batch may have fewer.

        Yields
        ------
        float32 (batch_size, dim), in the frames' order. A batch is yielded when the next one is already in flight.

        Raises
        ------
        torch.OutOfMemoryError
            If the device has no memory for a batch; the tower's own buffers have then been freed.
        """
        parts = (frames[start : start + batch_size] for start in range(0, len(frames), batch_size))
        if isinstance(frames, torch.Tensor):
            yield from (self.encode(part).cpu().numpy() for part in parts)
        elif self._device.type == "cuda":
            yield from self._pipelined(parts, (batch_size, *frames.shape[1:]))
        else:  # Ray's batches are read-only, and torch warns of arrays that it cannot write to: hence the copy.
            yield from (self.encode(torch.from_numpy(np.array(part, order="C"))).numpy() for part in parts)

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode uint8 (n, height, width, 3) on the device as float32 (n, dim) there, without waiting for it."""
        images = pixels.permute(0, 3, 1, 2) * self._scale + self._shift  # This keeps the bytes' channels-last layout.
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._autocasts):
            vectors = self._tower(images.to(self._dtype))
        if isinstance(vectors, tuple):  # CoCa's tower returns its tokens too.
            vectors = vectors[0]
        return vectors.float()

    def _pipelined(self, parts: Iterable[np.ndarray], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
        """Encode parts of at most ``shape`` on a GPU; the host waits once for each batch, for its vectors."""
        under_way: deque[_Slot] = deque()
        try:
            for number, part in enumerate(parts):
                slot = self._find_slot(number % _IN_FLIGHT, shape)  # The slot's last batch has been fetched.
                slot.bring_back(self.encode(slot.send(part)))
                under_way.append(slot)
                if len(under_way) == _IN_FLIGHT:
                    yield under_way.popleft().fetch()
            while under_way:
                yield under_way.popleft().fetch()
        except BaseException:
            for slot in self._slots:
                slot.settle()
            self._slots = []  # This frees memory for the smaller batches that may follow.
            raise

    def _find_slot(self, number: int, shape: tuple[int, ...]) -> _Slot:
        if self._slots and not self._slots[0].holds(shape):
            self._slots = []
        if number == len(self._slots):
            self._slots.append(_Slot(shape, self._device))
        return self._slots[number]


class _Slot:
    """Buffers of a batch in flight: for its frames in pinned memory and on the device, and for its vectors."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self._pinned = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self._pixels = torch.empty(shape, dtype=torch.uint8, device=device)
        self._vectors = torch.empty(0)
        self._copies = torch.cuda.Stream(device)
        self._done = torch.cuda.Event()
        # The buffers may be memory that kernels of the current stream still use.
        self._copies.wait_stream(torch.cuda.current_stream(device))

    def holds(self, shape: tuple[int, ...]) -> bool:
        """Return whether batches of that shape fit, and fill at least half of the buffers."""
        mine = tuple(self._pixels.shape)
        return mine[1:] == shape[1:] and shape[0] <= mine[0] <= 2 * shape[0]

    def send(self, part: np.ndarray) -> torch.Tensor:
        """Copy frames to the device, and make the current stream there wait for them."""
        n = len(part)
        _copy(part, self._pinned.numpy()[:n])
        with torch.cuda.stream(self._copies):
            self._pixels[:n].copy_(self._pinned[:n], non_blocking=True)
        torch.cuda.current_stream(self._pixels.device).wait_stream(self._copies)
        return self._pixels[:n]

    def bring_back(self, vectors: torch.Tensor) -> None:
        """Copy vectors from the device as soon as they are computed, without waiting for them."""
        if self._vectors.shape != vectors.shape:
            self._vectors = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
        self._vectors.copy_(vectors, non_blocking=True)
        self._done.record(torch.cuda.current_stream(vectors.device))

    def fetch(self) -> np.ndarray:
        """Wait for the vectors and return them."""
        self._done.synchronize()
        return self._vectors.numpy().copy()

    def settle(self) -> None:
        """Wait until all copies to the device are done."""
        self._copies.synchronize()


def _copy(source: np.ndarray, target: np.ndarray) -> None:
    """Copy rows with several threads."""
    edges = np.linspace(0, len(source), _COPY_THREADS + 1).astype(int)
    pieces = [slice(*edge) for edge in pairwise(edges)]
    list(_threads().map(lambda piece: np.copyto(target[piece], source[piece]), pieces))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_COPY_THREADS, thread_name_prefix="raypipe-frames")


def _computes_bf16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
