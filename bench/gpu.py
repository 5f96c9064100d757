"""Everything that needs a GPU, in one call: soft-DTW and the encoders agree with the CPU, and how fast they are.

    python -m bench.gpu

Needs numpy, scipy, scikit-learn, numba, cupy and torch alone. CLIP is measured with random weights, and only where
open_clip can be imported.
"""

import time
from typing import Any

import numpy as np
import torch

from bench.machine import keep
from bench.softdtw_gpu import measure_softdtw
from raypipe.encoders import Encoder, make_encoder
from raypipe.optional import is_installed


def frames_per_second(encoder: Encoder, frames: np.ndarray, seconds: float = 5.0) -> float:
    """Encode again and again for some seconds, the way to the device and back included."""
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


def measure_clip(rng: np.random.Generator) -> dict[str, Any]:
    """Time ViT-B-32 with random weights, by precision, beside the bare model on frames that are on the device."""
    if not is_installed("open_clip"):
        return {"skipped": "open_clip is not installed"}
    import tempfile
    from pathlib import Path

    import open_clip

    frames = rng.integers(0, 256, (1024, 224, 224, 3), dtype=np.uint8)
    model = open_clip.create_model("ViT-B-32", pretrained=None)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "random.pt"
        torch.save(model.state_dict(), checkpoint)
        for precision in ("fp32", "bf16"):
            options: dict[str, Any] = {"pretrained": str(checkpoint), "precision": precision, "device": "cuda"}
            figures[precision] = frames_per_second(make_encoder("clip", batch_size=1024, **options), frames)
    visual = model.visual.to("cuda").eval()
    images = torch.rand(1024, 3, 224, 224, device="cuda")
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        visual(images)
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(5):
            visual(images)
        torch.cuda.synchronize()
    figures["bare model, bf16"] = 5 * len(images) / (time.perf_counter() - started)
    return figures


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("bench.gpu needs a CUDA device, and torch sees none")
    rng = np.random.default_rng(0)
    figures = {
        "device": torch.cuda.get_device_name(),
        "softdtw": measure_softdtw(),
        "descriptor": measure_descriptor(rng),
        "clip_frames_per_s": measure_clip(rng),
    }
    print(figures)
    print(f"kept in {keep('gpu', figures)}")


if __name__ == "__main__":
    main()
