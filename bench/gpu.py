"""All measurements that need a GPU: whether soft-DTW and the encoders agree with the CPU, and how fast they are.

    python -m bench.gpu

They need only numpy, scipy, scikit-learn, numba, cupy and torch. CLIP is measured with networks of its sizes and random
weights, see bench/clip_gpu.py.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch

from bench.clip_gpu import measure_towers
from bench.machine import keep
from bench.softdtw_gpu import measure_softdtw
from raypipe.encoders import Encoder, make_encoder


def frames_per_second(encoder: Encoder, frames: np.ndarray, seconds: float = 5.0) -> float:
    """Encode repeatedly for some seconds; return frames a second, including the copies to the device and back."""
    encoder(frames)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        encoder(frames)
        done += len(frames)
    return done / (time.perf_counter() - started)


def measure_descriptor(rng: np.random.Generator) -> dict[str, Any]:
    """Compare the descriptor on the device with the CPU, and time it by batch size."""
    on_cpu = make_encoder("descriptor", device="cpu")
    frames = rng.integers(0, 256, (1024, on_cpu.image_size, on_cpu.image_size, 3), dtype=np.uint8)
    difference = np.abs(make_encoder("descriptor", device="cuda")(frames[:256]) - on_cpu(frames[:256])).max()
    rates = {
        size: frames_per_second(make_encoder("descriptor", device="cuda", batch_size=size), frames)
        for size in (64, 256, 1024)
    }
    return {"largest_difference_from_cpu": float(difference), "frames_per_s_by_batch": rates}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("bench.gpu needs a CUDA device, and torch sees none")
    rng = np.random.default_rng(0)
    figures = {
        "device": torch.cuda.get_device_name(),
        "softdtw": measure_softdtw(),
        "descriptor": measure_descriptor(rng),
        "clip": measure_towers(),
    }
    print(figures)
    print(f"kept in {keep('gpu', figures)}")


if __name__ == "__main__":
    main()
