"""CLIP's image tower on a GPU: images a second of raypipe's encoder, and of the bare network on the same GPU.

    python -m bench.clip_gpu

This needs only numpy and torch: the towers have the sizes of ViT-B-32 and ViT-L-14, and random weights. raypipe's
encoder takes uint8 frames in ordinary memory, as Ray passes them, and returns float32 vectors there. The bare network
takes prepared images that are on the device already, in bf16 and channels-last, and its vectors stay there.
"""

import argparse
import copy
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bench.machine import keep
from raypipe.encoders import _BatchedEncoder
from raypipe.encoders.tower import ImageTower

BATCHES = 64, 128, 256, 512, 1024, 2048
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIDE = 224


class Shape(NamedTuple):
    """Sizes of a vision transformer, from open_clip's configurations."""

    patch: int
    width: int
    layers: int
    heads: int
    dim: int


SHAPES = {"ViT-B-32": Shape(32, 768, 12, 12, 512), "ViT-L-14": Shape(14, 1024, 24, 16, 768)}


class VisionTransformer(nn.Module):
    """CLIP's image tower: patches and a class token pass through pre-norm blocks, and the token is projected."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        n_tokens = (SIDE // shape.patch) ** 2 + 1
        self.patches = nn.Conv2d(3, shape.width, shape.patch, shape.patch, bias=False)
        self.token = nn.Parameter(torch.randn(shape.width) / shape.width**0.5)
        self.positions = nn.Parameter(torch.randn(n_tokens, shape.width) / shape.width**0.5)
        self.before, self.after = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads) for _ in range(shape.layers))
        self.projection = nn.Linear(shape.width, shape.dim, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (n, 3, 224, 224) to (n, dim)."""
        tokens = self.patches(images).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(tokens), 1, -1), tokens], dim=1) + self.positions
        tokens = self.before(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        return self.projection(self.after(tokens[:, 0]))


class Block(nn.Module):
    """Attention and a perceptron, each added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map (n, tokens, width) to (n, tokens, width)."""
        n, length, width = tokens.shape
        q, k, v = self.qkv(self.norm_attention(tokens)).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width)
        tokens = tokens + self.out(attended)
        return tokens + self.mlp(self.norm_mlp(tokens))


def images_per_second(work: Callable[[], int], device: str, seconds: float) -> float:
    """Call ``work``, which returns its number of images, for some seconds after one call to warm up."""
    work()
    _wait(device)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        done += work()
        _wait(device)
    return round(done / (time.perf_counter() - started), 1)


def bare_rate(network: nn.Module, batch: int, device: str, seconds: float) -> float:
    """Time the network alone, eight batches at a time."""
    images = torch.randn(batch, 3, SIDE, SIDE, device=device, dtype=torch.bfloat16)
    images = images.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def work() -> int:
        for _ in range(8):
            network(images)
        return 8 * batch

    return images_per_second(work, device, seconds)


def encoder_rate(encoder: _BatchedEncoder, frames: np.ndarray, device: str, seconds: float) -> float:
    """Time raypipe's encoder on frames in memory, which it divides into batches itself."""
    return images_per_second(lambda: len(encoder(frames)), device, seconds)


def measure_shape(name: str, device: str, batches: tuple[int, ...], seconds: float) -> dict[str, Any]:
    """Measure one architecture: rates by batch size, also when compiled, and the accuracy that bf16 costs."""
    torch.manual_seed(0)
    exact = VisionTransformer(SHAPES[name]).eval()
    bare = copy.deepcopy(exact).to(device, torch.bfloat16).to(memory_format=torch.channels_last)
    tower = ImageTower(copy.deepcopy(exact), MEAN, STD, device=device, precision="bf16")
    # There are four batches of the largest size, because the first copy and the last fetch overlap with nothing.
    frames = np.random.default_rng(0).integers(0, 256, (4 * max(batches), SIDE, SIDE, 3), dtype=np.uint8)
    frames.flags.writeable = False  # Ray's arrays are read-only too.
    rows: dict[str, Any] = {}
    for batch in batches:
        encoder = _batched(tower, SHAPES[name].dim, batch)
        alone, ours = bare_rate(bare, batch, device, seconds), encoder_rate(encoder, frames, device, seconds)
        rows[str(batch)] = {"bare": alone, "encoder": ours, "ratio": round(ours / alone, 3)}
        print(name, batch, rows[str(batch)], flush=True)
    best = {kind: max(rows, key=lambda batch: rows[batch][kind]) for kind in ("bare", "encoder")}
    fastest = rows[best["bare"]]["bare"]
    return {
        "images_per_s_by_batch": rows,
        "best_batch": best,
        "encoder_over_bare": round(rows[best["encoder"]]["encoder"] / fastest, 3),
        "one_batch_s": _measure_batch(tower, frames[: int(best["encoder"])], device),
        "compiled": _measure_compiled(exact, frames, int(best["encoder"]), device, seconds),
        "least_cosine_of_bf16_and_float32": _compare(exact, tower, frames[:128], device),
    }


def measure_halving(device: str = "cuda") -> dict[str, Any]:
    """Give the encoder less memory than a batch needs; check that it halves the batch and returns the same vectors."""
    torch.manual_seed(0)
    tower = ImageTower(VisionTransformer(SHAPES["ViT-B-32"]), MEAN, STD, device=device, precision="bf16")
    frames = np.random.default_rng(1).integers(0, 256, (2048, SIDE, SIDE, 3), dtype=np.uint8)
    dim = SHAPES["ViT-B-32"].dim
    expected = _batched(tower, dim, 64)(frames)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + (2 << 30)) / total)
    try:
        small = _batched(tower, dim, 2048)
        vectors = small(frames)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    cosines = (vectors * expected).sum(axis=1)
    if not small.batch_size < 2048 or cosines.min() < 0.999:
        raise SystemExit(f"halving failed: batch {small.batch_size}, least cosine {cosines.min():.4f}")
    return {"asked": 2048, "left": small.batch_size, "room_gib": 2, "least_cosine": float(cosines.min())}


def measure_towers(device: str = "cuda", batches: tuple[int, ...] = BATCHES, seconds: float = 3.0) -> dict[str, Any]:
    """Measure CLIP on the GPU: rates, accuracy, and behaviour when memory is short."""
    figures: dict[str, Any] = {name: measure_shape(name, device, batches, seconds) for name in SHAPES}
    if device != "cpu":
        figures["halving"] = measure_halving(device)
    return figures


def _batched(tower: ImageTower, dim: int, batch: int) -> _BatchedEncoder:
    """Wrap a tower as `make_encoder` wraps every encoder."""
    known: Any = tower
    known.dim, known.image_size, known.resize_mode = dim, SIDE, "crop"
    return _BatchedEncoder("tower", known, "random", normalize=True, batch_size=batch)


def _measure_batch(tower: ImageTower, frames: np.ndarray, device: str, rounds: int = 10) -> dict[str, float]:
    """Time a batch by itself, in seconds: from frames in memory to vectors there, and on the device alone."""

    def seconds(work: Callable[[], Any]) -> float:
        work()
        _wait(device)
        started = time.perf_counter()
        for _ in range(rounds):
            work()
        _wait(device)
        return round((time.perf_counter() - started) / rounds, 5)

    pixels = torch.from_numpy(frames.copy()).to(device)
    return {"from_memory": seconds(lambda: tower(frames)), "on_device": seconds(lambda: tower.encode(pixels))}


def _measure_compiled(
    exact: nn.Module, frames: np.ndarray, batch: int, device: str, seconds: float
) -> dict[str, Any] | str:
    """Time the compiled network, alone and in raypipe's encoder, or return why it does not compile."""
    network = copy.deepcopy(exact).to(device, torch.bfloat16).to(memory_format=torch.channels_last)
    started = time.perf_counter()
    try:
        compiled: Any = torch.compile(network)
        bare = bare_rate(compiled, batch, device, seconds)
    except Exception as error:  # The compiler may be missing, or may raise anything.
        return f"does not compile: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    compile_s = time.perf_counter() - started - seconds
    tower = ImageTower(compiled, MEAN, STD, device=device, precision="bf16")
    encoder = _batched(tower, 1, batch)
    encoder.dim = int(tower(frames[:batch]).shape[1])
    ours = encoder_rate(encoder, frames, device, seconds)
    return {"batch": batch, "bare": bare, "encoder": ours, "compile_s": round(compile_s, 1)}


def _compare(exact: nn.Module, tower: ImageTower, frames: np.ndarray, device: str) -> float:
    right = ImageTower(copy.deepcopy(exact), MEAN, STD, device=device, precision="fp32")(frames)
    ours = tower(frames)
    norms = np.linalg.norm(right, axis=1) * np.linalg.norm(ours, axis=1)
    return float(((right * ours).sum(axis=1) / norms).min())


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("bench.clip_gpu needs a CUDA device, and torch sees none")
    figures = {"device": torch.cuda.get_device_name(), **measure_towers()}
    print(f"kept in {keep('clip_gpu', figures)}")


if __name__ == "__main__":
    main()
