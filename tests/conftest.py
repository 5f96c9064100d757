"""Fixtures that all tests share, and the marks that follow from them."""

import compileall
import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from sessions import end_ray, local_ray
from trouble import proxy_before, serve_folder
from videos import write_video

from raypipe.packages import sees_gpu

TESTS = Path(__file__).resolve().parent

SOFTDTW = TESTS.parent / "raypipe" / "softdtw"


def compiled_folder() -> Path:
    """Return where numba keeps what it compiles: a folder for each state of our kernels' files together.

    numba's cache looks at the file of a compiled function alone; so no test runs code from before a change. What it has
    compiled of other packages stays right: it is copied from earlier folders, as UMAP alone takes most of a minute.
    """
    parent = Path(tempfile.gettempdir())
    names = ("lanes.py", "cells.py", "limits.py", "sweeps.py", "passes.py", "numba.py")
    sources = b"".join((SOFTDTW / name).read_bytes() for name in names)
    folder = parent / f"raypipe-kernels-{hashlib.sha256(sources).hexdigest()[:16]}"
    if not folder.exists():
        new = Path(tempfile.mkdtemp(dir=parent))
        for earlier in sorted(parent.glob("raypipe-kernels-*"), key=lambda path: path.stat().st_mtime, reverse=True):
            for path in earlier.iterdir():
                if not path.name.startswith("softdtw_") and not (new / path.name).exists():
                    shutil.copytree(path, new / path.name)
        with contextlib.suppress(OSError):  # another process was first
            new.rename(folder)
        shutil.rmtree(new, ignore_errors=True)
    return folder


# Two processes of tests with two threads each wait for each other's locks: with OpenBLAS's, small products of matrices
# took nine times the CPU time. The processes that are started from here inherit this.
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(name, "1")
# Ray's workers have a niceness of 15 otherwise: beside tests that keep each core busy, what they do takes ten times as
# long.
os.environ.setdefault("RAY_worker_niceness", "0")
# They import what the helpers have, such as an encoder.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS / "helpers"), os.environ.get("PYTHONPATH")]))
if "NUMBA_CACHE_DIR" not in os.environ:  # before anything imports numba; child processes inherit it
    os.environ["NUMBA_CACHE_DIR"] = str(compiled_folder())

WITHOUT_RAY = {"unit", "thorough"}  # Folders of tests; the files of the others share a Ray or have their own.
RAY_FIXTURES = {"ray_local", "own_ray", "ray_elsewhere"}
ON_A_GPU = {"gpu", "cupy", "cuda"}  # the fixture's name, and what a parameter names that runs on a device
WITH_OWN_RAY = {"test_gpu_pools.py", "test_nodes.py", "test_object_store.py", "test_s3.py"}
WITH_UMAP = {
    "test_api.py",
    "test_commands.py",
    "test_notebooks.py",
    "test_presets.py",
    "test_umap_learn.py",
}  # each process compiles it anew


def pytest_configure(config):
    """Compile our modules: hundreds of processes import them, each anew where PYTHONDONTWRITEBYTECODE is set."""
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(TESTS.parent / "raypipe", quiet=2)


def pytest_collection_modifyitems(config, items):
    """Mark each test by what it uses, and order them."""
    for item in items:
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        uses = {*item.fixturenames, *(each for each in parameters if isinstance(each, str))}
        if uses & ON_A_GPU:
            item.add_marker("gpu")
        if uses & RAY_FIXTURES:
            item.add_marker("ray")
    # In one process the unit tests are first: a mistake shows early. In two, those with Ray, as they take longest; and
    # of these the ones that share a Ray come before those with one of their own. Of the others the long files come
    # first, so that both processes end at about the same time.
    if not hasattr(config, "workerinput"):
        items.sort(key=lambda item: not is_unit(item))
        return
    n_bytes = {path: path.stat().st_size for path in {item.path for item in items} if path.parent.name in WITHOUT_RAY}
    items.sort(
        key=lambda item: (
            is_unit(item),
            has_own_ray(item.path),
            "ray_local" not in item.fixturenames,
            -n_bytes.get(item.path, 0),
        )
    )


def is_unit(item) -> bool:
    return item.path.parent.name == "unit"


def has_own_ray(path: Path) -> bool:
    """Whether a file's tests start Rays of their own: they may run beside the tests that share one."""
    return path.name in WITH_OWN_RAY or path.parent.name == "campaigns"


def pytest_xdist_auto_num_workers(config):
    """Run folders in two processes, and files in this one."""
    return 2 if any(Path(argument.partition("::")[0]).is_dir() for argument in config.args) else 0


def pytest_xdist_make_scheduler(config, log):
    """Give all tests that share a Ray to one of the two, all that start their own to one, and all that compile UMAP."""
    from xdist.scheduler import LoadScopeScheduling

    class Rooms(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = Path(nodeid.partition("::")[0])
            if path.parent.name == "browser":
                return path.name
            if path.parent.name not in WITHOUT_RAY:
                return "own ray" if has_own_ray(path) else "ray"
            return "umap" if path.name in WITH_UMAP else path.name

    return Rooms(config, log)


def pytest_runtest_setup(item):
    """Skip what is marked ``gpu`` where there is no device; fail it where one is required."""
    if item.get_closest_marker("gpu") is None or sees_gpu():
        return
    if os.environ.get("RAYPIPE_REQUIRE_GPU") == "1":
        pytest.fail("RAYPIPE_REQUIRE_GPU=1, and there is no GPU")
    pytest.skip("no GPU here")


@pytest.fixture(scope="session")
def gpu():
    """Ask for a CUDA device: the test skips without one, and fails under RAYPIPE_REQUIRE_GPU=1."""


@pytest.fixture(scope="session")
def ray_local():
    """Join the Ray of two CPUs that tests share. A test must leave it as it was: nothing held, nothing running."""
    with local_ray() as ray:
        yield ray


@pytest.fixture(scope="session")
def own_ray():
    """Return a context that is a local Ray of one's own, with resources of one's own; the shared one ends before."""
    return local_ray


@pytest.fixture(scope="session")
def ray_elsewhere():
    """Say that Ray runs in other processes than this, a cluster's nodes or a command's: the shared one ends before."""
    end_ray()


@pytest.fixture(scope="module")
def chain_here():
    """Let this file's runs go through the chain in this process: they are about what happens around it."""
    from chain_here import put_chain_here  # It imports Ray.

    with pytest.MonkeyPatch.context() as patch:
        put_chain_here(patch)
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of real test data, or skip."""
    folder = Path(os.environ.get("RAYPIPE_TEST_DATA", TESTS.parent / "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}: set RAYPIPE_TEST_DATA")
    return folder


@pytest.fixture
def make_video(tmp_path):
    """Return a function that writes a small video below ``tmp_path`` and returns its path."""

    def make(name: str = "video.mp4", **options) -> Path:
        return write_video(tmp_path / name, **options)

    return make


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Return a folder of three videos for ``proxy`` to serve."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("a.mp4", "sub/b.mp4", "sub/c.mp4"):
        write_video(folder / name, n_frames=30, size=(160, 120), seed=ord(name[-5]))
    return folder


@pytest.fixture
def proxy(served):
    """Serve the folder through a `trouble.Proxy`."""
    with serve_folder(served) as target, proxy_before(target) as proxy:
        yield proxy
