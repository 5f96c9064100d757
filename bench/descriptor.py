"""How well the descriptor and each of its parts distinguish robot tasks, and how fast it is on one thread.

    python -m bench.descriptor

27 videos of six tasks are cut into clips of about 2 seconds; a clip's vector is the mean of its frames' unit vectors.
The figure is the share of clips whose nearest neighbour by cosine shows the same task. ``clips`` takes neighbours from
all videos, which is easy, because the rest of the clip's own video is among them. ``strict`` takes them only from other
videos. ``disturbed`` is strict, with the clip itself dimmed to 80 % and full of noise. ``videos`` compares the means of
whole videos.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from raypipe.decoders import make_decoder
from raypipe.encoders import make_encoder
from raypipe.encoders.descriptor import WEIGHTS, Descriptor

ROOT = Path(__file__).resolve().parents[1]
FPS, CLIP_S = 4.0, 2.0
DIM, NOISE = 0.8, 8.0  # a factor on brightness, and the noise's standard deviation on a scale to 255
TIMED_FRAMES = 512


class Clips(NamedTuple):
    """Labelled clips."""

    frames: np.ndarray  # (n, S, S, 3) uint8, of all clips
    clip: np.ndarray  # (n,), the clip of each frame
    video: np.ndarray  # (n_clips,), the video of each clip
    label: np.ndarray  # (n_clips,)


def load_clips(folder: Path, image_size: int, resize_mode: str, fps: float = FPS, clip_s: float = CLIP_S) -> Clips:
    """Decode ``folder/<label>/*.mp4`` and cut each video into equal clips of about ``clip_s`` seconds."""
    decoder = make_decoder("pyav")
    paths = sorted(folder.glob("*/*.mp4"))
    names = sorted({path.parent.name for path in paths})
    pixels: list[np.ndarray] = []
    frame_clips: list[np.ndarray] = []
    videos: list[int] = []
    labels: list[int] = []
    for number, path in enumerate(paths):
        duration_s = decoder.probe(path.as_uri()).duration_s
        decoded = decoder.frames(path.as_uri(), np.arange(0, duration_s, 1 / fps), image_size, resize_mode)
        n_clips = max(1, round(duration_s / clip_s))
        pixels.append(decoded.pixels)
        frame_clips.append(len(videos) + np.minimum(decoded.times_s * n_clips / duration_s, n_clips - 1).astype(int))
        videos += [number] * n_clips
        labels += [names.index(path.parent.name)] * n_clips
    return Clips(np.concatenate(pixels), np.concatenate(frame_clips), np.array(videos), np.array(labels))


def score(clips: Clips, vectors: np.ndarray, disturbed: np.ndarray | None = None) -> dict[str, float]:
    """Return the 1-NN accuracies of frame vectors (n, dim); ``disturbed`` are those of the disturbed frames."""
    gallery = mean_unit(vectors, clips.clip)
    other_clip = ~np.eye(len(clips.video), dtype=bool)
    other_video = clips.video[:, None] != clips.video
    figures = {
        "clips": accuracy(gallery, gallery, clips.label, other_clip),
        "strict": accuracy(gallery, gallery, clips.label, other_video),
    }
    if disturbed is not None:
        figures["disturbed"] = accuracy(mean_unit(disturbed, clips.clip), gallery, clips.label, other_video)
    whole = mean_unit(vectors, clips.video[clips.clip])
    labels = clips.label[np.unique(clips.video, return_index=True)[1]]
    figures["videos"] = accuracy(whole, whole, labels, ~np.eye(len(whole), dtype=bool))
    return figures


def mean_unit(vectors: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Average the vectors of each group, and scale the means to unit length."""
    means = np.stack([vectors[group == g].mean(axis=0) for g in range(group.max() + 1)])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def accuracy(queries: np.ndarray, gallery: np.ndarray, labels: np.ndarray, allowed: np.ndarray) -> float:
    """Return the share of queries whose nearest allowed neighbour by cosine has their label."""
    nearest = np.where(allowed, queries @ gallery.T, -np.inf).argmax(axis=1)
    return float((labels[nearest] == labels).mean())


def disturb(frames: np.ndarray, seed: int = 0) -> np.ndarray:
    """Dim frames and add a camera's noise."""
    noise = np.random.default_rng(seed).normal(0, NOISE, frames.shape)
    return (DIM * frames + noise).round().clip(0, 255).astype(np.uint8)


def time_encoder(encode: Callable[[np.ndarray], Any], frames: np.ndarray, rounds: int = 5) -> float:
    """Return frames per second, the best of some rounds after a first one that does not count."""
    encode(frames)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        encode(frames)
        seconds.append(time.perf_counter() - start)
    return len(frames) / min(seconds)


def measure_descriptor(folder: Path) -> dict[str, dict[str, float]]:
    descriptor = Descriptor()
    clips = load_clips(folder, descriptor.image_size, descriptor.resize_mode)
    noisy = disturb(clips.frames)
    parts, noisy_parts = descriptor.parts(clips.frames), descriptor.parts(noisy)
    figures = {name: score(clips, parts[name], noisy_parts[name]) for name in WEIGHTS}
    plain = score(clips, np.hstack(list(parts.values())), np.hstack(list(noisy_parts.values())))
    figures["plain concatenation"] = plain
    figures["descriptor"] = score(clips, descriptor(clips.frames), descriptor(noisy))
    figures["descriptor"]["frames_per_s"] = time_encoder(descriptor, clips.frames[:TIMED_FRAMES])
    return figures


def measure_mobilenet(folder: Path) -> dict[str, float]:
    sys.path.insert(0, str(ROOT / "tests/helpers"))
    encoder = make_encoder("mobilenet_encoder:MobileNet")
    clips = load_clips(folder, encoder.image_size, encoder.resize_mode)
    figures = score(clips, encoder(clips.frames), encoder(disturb(clips.frames)))
    return {**figures, "frames_per_s": time_encoder(encoder, clips.frames[:64])}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    import torch

    from bench.machine import keep

    torch.set_num_threads(1)
    data = Path(os.environ.get("RAYPIPE_TEST_DATA", ROOT / "../shared/data")).resolve()
    figures = measure_descriptor(data / "videos/robot_tasks")
    figures["mobilenet"] = measure_mobilenet(data / "videos/robot_tasks")
    path = keep("descriptor", {"weights": WEIGHTS, "one_thread": True, "accuracy": figures})
    columns = ("clips", "strict", "disturbed", "videos", "frames_per_s")
    print(f"{'':22}" + "".join(f"{column:>13}" for column in columns))
    for name, row in figures.items():
        cells = [f"{row[c]:.3g}" if c in row else "" for c in columns]
        print(f"{name:22}" + "".join(f"{cell:>13}" for cell in cells))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
