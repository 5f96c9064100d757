import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raypipe.encoders import make_encoder, remake_encoder
from raypipe.errors import EncoderError, RaypipeError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _keep_import_path(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])


def scene(left: float = 40, top: float = 50, side: float = 20, color=(200, 60, 40), size: int = 128) -> np.ndarray:
    """(size, size, 3) uint8: a coloured square with soft edges on a textured table."""
    y, x = np.mgrid[:size, :size] + 0.5
    ground = 150 + 20 * np.sin(x / 9) * np.sin(y / 7)
    cover = np.clip(x - left, 0, 1) * np.clip(left + side - x, 0, 1) * np.clip(y - top, 0, 1)
    cover = (cover * np.clip(top + side - y, 0, 1))[..., None]
    return (ground[..., None] * (1 - cover) + np.array(color) * cover).astype(np.uint8)


def random_frames(n: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def run_python(code: str, **env: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **env}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)


def test_importing_the_room_is_light():
    done = run_python("import raypipe.encoders, sys, json; print(json.dumps(sorted(sys.modules)))")
    assert not {"torch", "open_clip", "pydantic", "ray", "huggingface_hub"} & set(json.loads(done.stdout))


def test_an_encoder_of_ones_own_is_timed_without_torch():
    done = run_python(
        "import sys\n"
        "from raypipe.packages import one_torch_thread\n"
        "with one_torch_thread(): print('torch' in sys.modules)"
    )
    assert done.stdout == "False\n"


def test_unknown_encoder():
    with pytest.raises(EncoderError, match=r"unknown encoder 'clop': --encoder takes clip, cnn, descriptor or package"):
        make_encoder("clop")


# --- the descriptor


@pytest.fixture(scope="module")
def descriptor():
    return make_encoder("descriptor")


def test_descriptor_keeps_the_protocol(descriptor):
    vectors = descriptor(random_frames(3, descriptor.image_size))
    assert vectors.shape == (3, descriptor.dim) == (3, 900)
    assert vectors.dtype == np.float32
    assert descriptor.resize_mode == "squash"
    assert descriptor.fingerprint == "descriptor-1/l2"
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert descriptor(np.empty((0, 128, 128, 3), np.uint8)).shape == (0, 900)


def test_descriptor_is_deterministic_and_knows_no_batches(descriptor):
    frames = random_frames(37, 128)
    frames.flags.writeable = False  # as Ray's batches are
    vectors = descriptor(frames)
    np.testing.assert_array_equal(vectors, make_encoder("descriptor")(frames))
    for batch_size in (1, 5, 16):
        small = make_encoder("descriptor", batch_size=batch_size)
        np.testing.assert_allclose(small(frames[::-1])[::-1], vectors, atol=1e-6, rtol=0)


def test_who_has_numpy_raise_can_describe_frames(descriptor):
    from raypipe.encoders.descriptor import Descriptor

    frames = np.stack([scene(), np.zeros((128, 128, 3), np.uint8)])
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(Descriptor()(frames), descriptor(frames))


def test_descriptor_computed_by_torch_is_the_same(descriptor):
    from raypipe.encoders.descriptor import Descriptor

    frames = np.stack([*random_frames(3, 128), scene(), np.zeros((128, 128, 3), np.uint8)])
    np.testing.assert_allclose(Descriptor("cpu:0")(frames), descriptor(frames), atol=2e-6, rtol=0)


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_descriptor_needs_no_torch_without_a_gpu(device):
    done = run_python(
        "import numpy as np, sys\n"
        "from raypipe.encoders import make_encoder\n"
        f"make_encoder('descriptor', device={device!r})(np.zeros((1, 128, 128, 3), np.uint8))\n"
        "print('torch' in sys.modules)",
        CUDA_VISIBLE_DEVICES="",
    )
    assert done.stdout == "False\n", done.stderr


def test_descriptor_numbers_are_pinned():
    """Whoever changes them raises VERSION, so that old embeddings are not taken for new ones."""
    vector = make_encoder("descriptor")(scene()[None])[0]
    parts = [vector[:512], vector[512:704], vector[704:]]
    np.testing.assert_allclose([part.sum() for part in parts], [1.57387, 0.83473, 10.6276], rtol=1e-4)


@pytest.mark.parametrize("flat", [0, 60, 118, 254])
def test_descriptor_of_flat_frames_is_no_noise(descriptor, flat):
    vectors = descriptor(np.stack([np.full((128, 128, 3), value, np.uint8) for value in (flat, flat + 1)]))
    assert np.isfinite(vectors).all()
    assert np.linalg.norm(vectors[0] - vectors[1]) < 0.01


def test_descriptor_sees_where_things_are_through_noise_and_dim_light(descriptor):
    """A block's way of 8 pixels outweighs the camera's noise, farther is more, and so it is with the light dimmed."""
    rng = np.random.default_rng(0)
    places = [scene(left=40 + shift) for shift in (0, 8, 24, 60)]
    noisy = (places[0] + rng.normal(0, 4, places[0].shape)).clip(0, 255).astype(np.uint8)
    vectors = descriptor(np.stack([*places, noisy]))
    _, *to_moved, to_noisy = np.linalg.norm(vectors - vectors[0], axis=1)
    assert to_noisy < to_moved[0] / 2
    assert (np.diff(to_moved) > 0).all()
    dimmed = descriptor((0.8 * np.stack(places)).astype(np.uint8))
    nearest = np.linalg.norm(dimmed[:, None] - vectors[:4], axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest, np.arange(4))


def test_descriptor_as_a_whole_is_as_good_as_its_best_part(data_dir):
    from bench.descriptor import load_clips, score
    from raypipe.encoders.descriptor import Descriptor

    encoder = Descriptor()
    clips = load_clips(data_dir / "videos/robot_tasks", encoder.image_size, encoder.resize_mode, fps=1.0)
    whole = score(clips, encoder(clips.frames))
    parts = {name: score(clips, vectors) for name, vectors in encoder.parts(clips.frames).items()}
    for scoring, accuracy in whole.items():
        assert accuracy >= max(part[scoring] for part in parts.values()), (scoring, whole, parts)
    assert whole["strict"] > 0.85


# --- what all have in common


def test_normalize_is_the_same_for_all_and_leaves_zero_alone(user_module):
    spec = user_module("""
        class Name:
            dim, image_size, resize_mode, fingerprint = 2, 4, "crop", "v1"
            def __call__(self, frames):
                out = np.zeros((len(frames), 2), np.float32)
                out[:, 0] = 3e30 * (frames[:, 0, 0, 0] > 0)
                out[:, 1] = 4e30 * (frames[:, 0, 0, 0] > 0)
                return out
    """)
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    frames[0] = 9
    unit, raw = make_encoder(spec), make_encoder(spec, normalize=False)
    np.testing.assert_allclose(unit(frames), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(raw(frames), [[3e30, 4e30], [0, 0]], rtol=1e-6)
    assert unit.fingerprint == f"{spec}/v1/l2"
    assert raw.fingerprint == f"{spec}/v1/raw"


@pytest.mark.parametrize(
    "frames", [np.zeros((1, 64, 64, 3), np.uint8), np.zeros((1, 128, 128, 3)), np.zeros((128, 128, 3), np.uint8)]
)
def test_frames_of_another_kind_are_refused(descriptor, frames):
    with pytest.raises(EncoderError, match=r"descriptor takes uint8 frames \(n, 128, 128, 3\), not "):
        descriptor(frames)


# --- a user's own


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """Return a function that writes a module into the current directory and returns ``module:Name``."""
    monkeypatch.chdir(tmp_path)
    name = f"own_{re.sub('[^0-9a-z]', '_', tmp_path.name)}"

    def write(source: str) -> str:
        lines = source.strip("\n").splitlines()
        indent = len(lines[0]) - len(lines[0].lstrip())
        (tmp_path / f"{name}.py").write_text("\n".join(["import numpy as np", *(line[indent:] for line in lines)]))
        return f"{name}:Name"

    yield write
    sys.modules.pop(name, None)


GOOD = """
class Made:
    dim, image_size, resize_mode = 3, 8, "squash"
    def __call__(self, frames):
        assert len(frames) <= 2
        return frames.mean(axis=(1, 2)).astype(np.float32)
"""


@pytest.mark.parametrize("form", ["Name = Made", "Name = Made()", "def Name():\n    return Made()"])
def test_users_encoder_may_be_class_instance_or_factory(user_module, form):
    spec = user_module(GOOD + form)
    encoder = make_encoder(spec, normalize=False, batch_size=2)
    frames = random_frames(5, 8)
    np.testing.assert_allclose(encoder(frames), frames.mean(axis=(1, 2)), rtol=1e-6)
    assert (encoder.dim, encoder.image_size, encoder.resize_mode) == (3, 8, "squash")


def test_users_encoder_without_fingerprint_is_known_by_its_source(user_module):
    spec = user_module(GOOD + "Name = Made")
    first = make_encoder(spec).fingerprint
    assert first == make_encoder(spec).fingerprint
    sys.modules.pop(spec.partition(":")[0])
    user_module(GOOD.replace("mean", "max") + "Name = Made")
    assert make_encoder(spec).fingerprint != first


def test_an_encoder_that_is_made_again_must_be_the_same(user_module):
    """A training overwrites its last checkpoint, and an actor that is started again would take it."""
    spec = user_module(GOOD + "Name = Made")
    first = make_encoder(spec, batch_size=2).fingerprint
    assert remake_encoder(first, spec, batch_size=2).fingerprint == first
    sys.modules.pop(spec.partition(":")[0])
    user_module(GOOD.replace("mean", "max") + "Name = Made")
    with pytest.raises(
        EncoderError, match=rf"encoder {spec} is {spec}/\w+/l2 on .*, and this run's is {first}: its weigh"
    ):
        remake_encoder(first, spec, batch_size=2)


BROKEN = {
    r"no worker can import a notebook's or script's classes: write a module of it$": ("__main__:Name", ""),
    r"no module 'nowhere' in .*, PYTHONPATH or": ("nowhere:Name", ""),
    r"has no 'Name'$": (None, "Other = 1"),
    r"a int is neither an encoder nor makes one": (None, "Name = 1"),
    r"importing own_\w+ failed: ModuleNotFoundError: No module named 'absent_dependency'": (
        None,
        "import absent_dependency",
    ),
    r"importing own_\w+ failed: SyntaxError": (None, "class Name"),
    r"Name\(\) failed: TypeError: .*missing 1 required positional argument": (
        None,
        GOOD + "class Name(Made):\n    def __init__(self, path): pass",
    ),
    r"Made lacks image_size, resize_mode$": (None, "class Made:\n    dim = 3\nName = Made"),
    r"Made lacks __call__": (None, GOOD.replace("__call__", "encode") + "Name = Made"),
    r"dim must be a whole number above 0, not 0": (None, GOOD.replace("3, 8", "0, 8") + "Name = Made"),
    r"resize_mode must be crop or squash, not 'pad'": (None, GOOD.replace("squash", "pad") + "Name = Made"),
    r"must return a float32 array \(2, 3\) for 2 frames, but returned float64 \(2, 3\)": (
        None,
        GOOD.replace(".astype(np.float32)", "") + "Name = Made",
    ),
    r"but returned float32 \(2, 8, 3\)": (None, GOOD.replace("axis=(1, 2)", "axis=1") + "Name = Made"),
    r"but returned a list": (None, GOOD.replace("np.float32)", "np.float32).tolist()") + "Name = Made"),
    r"NaN or infinity in the vectors of 2 of 2 frames": (
        None,
        GOOD.replace("np.float32)", "np.float32) * np.nan") + "Name = Made",
    ),
    r"importing own_\w+ failed: SystemExit: 0$": (None, "raise SystemExit(0)"),  # A script ends so.
    r"Name\(\) failed: SystemExit: no licence$": (None, "def Name():\n    raise SystemExit('no licence')"),
    r"encoder own_\w+:Name: RuntimeError: not loaded yet$": (
        None,
        GOOD + "class Name(Made):\n    @property\n    def dim(self):\n        raise RuntimeError('not loaded\\nyet')",
    ),
    r"must return a float32 array \(1, 3\) for 1 frames, but returned float32 \(3,\)": (
        None,
        GOOD.replace("np.float32)", "np.float32).squeeze()") + "Name = Made",
    ),
    r"failed on 2 frames: ZeroDivisionError: division by zero": (
        None,
        GOOD.replace("assert len(frames) <= 2", "1 / 0") + "Name = Made",
    ),
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_users_encoder_says_what_is_wrong(user_module, message):
    spec, source = BROKEN[message]
    spec = spec or user_module(source)
    with pytest.raises(EncoderError, match=message) as caught:
        make_encoder(spec)
    assert str(caught.value).startswith(f"encoder {spec}")
    assert "\n" not in str(caught.value)


def test_mobilenet_as_a_users_own(data_dir):
    done = run_python(
        "import numpy as np; from raypipe.encoders import make_encoder;"
        "e = make_encoder('mobilenet_encoder:MobileNet', normalize=False);"
        "v = e(np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8));"
        "print(e.dim, e.image_size, v.min() >= 0, 0.1 < v.max() < 6.1, (v[0] != v[1]).any())",
        PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "tests/helpers")]),
        RAYPIPE_TEST_DATA=str(data_dir),
    )
    assert done.stdout == "1024 224 True True True\n", done.stderr


def test_a_gpu_without_room_gets_smaller_batches():
    from raypipe.encoders import _BatchedEncoder

    class OutOfMemoryError(RuntimeError):
        """As torch's and CuPy's are called."""

    class Small:
        dim, image_size, resize_mode = 3, 8, "squash"

        def __init__(self, room):
            self.room, self.sizes = room, []

        def __call__(self, frames):
            self.sizes.append(len(frames))
            if len(frames) > self.room:
                raise OutOfMemoryError("CUDA out of memory")
            return frames.mean(axis=(1, 2)).astype(np.float32)

    frames = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3)).astype(np.uint8)
    small = Small(room=5)
    encoder = _BatchedEncoder("small", small, "1", normalize=False, batch_size=16)
    np.testing.assert_allclose(encoder(frames), frames.mean(axis=(1, 2)))
    assert small.sizes[:3] == [16, 8, 4]
    assert encoder.batch_size == 4
    with pytest.raises(RaypipeError, match="failed on 1 frames: OutOfMemoryError: CUDA out of memory"):
        _BatchedEncoder("none", Small(room=0), "1", normalize=False, batch_size=16)(frames)
