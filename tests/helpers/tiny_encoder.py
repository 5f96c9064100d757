"""An encoder for tests of the chain: it needs no torch, which each of Ray's workers would import anew."""

import numpy as np


class Tiny:
    """A frame's mean colours on a 4 × 4 grid."""

    dim, image_size, resize_mode, fingerprint = 48, 16, "squash", "1"

    def __call__(self, frames):
        return frames.reshape(len(frames), 4, 4, 4, 4, 3).mean(axis=(2, 4)).reshape(len(frames), 48).astype(np.float32)


TINY = {"encode": {"encoder": "tiny_encoder:Tiny"}}
