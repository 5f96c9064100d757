"""A user's own encoder, as the README has it: ``mobilenet_encoder:MobileNet``, with PYTHONPATH=tests/helpers."""

import os
from pathlib import Path

import numpy as np

DATA = Path(os.environ.get("RAYPIPE_TEST_DATA", Path(__file__).resolve().parents[3] / "shared/data"))
MODEL = DATA / "weights/mobilenet_v1_1.0_224_quant_embedding_extractor.tflite"


class MobileNet:
    """MobileNet v1, quantised to 8 bits, without its last layer."""

    dim = 1024
    image_size = 224
    resize_mode = "squash"
    fingerprint = MODEL.name

    def __init__(self):
        from ai_edge_litert.interpreter import Interpreter

        self.model = Interpreter(str(MODEL), num_threads=1)
        self.model.allocate_tensors()
        self.input = self.model.get_input_details()[0]["index"]
        self.output = self.model.get_output_details()[0]["index"]
        self.scale, self.zero = self.model.get_output_details()[0]["quantization"]

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        vectors = np.empty((len(frames), self.dim), dtype=np.float32)
        for frame, vector in zip(frames, vectors, strict=True):  # the model takes one frame at a time, as it is
            self.model.set_tensor(self.input, frame[None])
            self.model.invoke()
            # int32 first: bytes less a zero point would wrap around
            vector[:] = self.scale * (self.model.get_tensor(self.output).ravel().astype(np.int32) - self.zero)
        return vectors
