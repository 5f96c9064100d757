"""The house rules: imports run downward, only engine/ knows Ray, and what should be light is light."""

import ast
import importlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "raypipe"

# From the lowest room to the highest; a module may import from its own room and from those before it.
ROOMS = [
    "errors", "packages", "storage", "ranges", "schema", "config", "progress", "sources", "decoders", "encoders",
    "segments", "softdtw", "reduction", "clustering", "analysis", "runs", "trajectories", "report", "engine",
    "demo", "inspection", "doctor", "pipeline", "api", "options", "cli", "__main__",
]  # fmt: skip
ALONE_ON_A_GPU_MACHINE = [
    "raypipe.softdtw",
    "raypipe.clustering.time_series_kmeans",
    "raypipe.encoders",
    "raypipe.encoders.tower",
]


def imported_modules(source: str) -> set[str]:
    """Return every module that a source text imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "raypipe" and len(parts) > 1 and parts[1] in ROOMS else None


def upward_arrows(room: str, source: str) -> set[str]:
    rooms = {room_of(name) for name in imported_modules(source)} - {None}
    return {other for other in rooms if ROOMS.index(other) > ROOMS.index(room)}


def modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downward(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert room in ROOMS, f"{room} has no place in the house"
    assert not upward_arrows(room, path.read_text())


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_engine_imports_ray(path):
    if "engine" not in path.parts:
        assert "ray" not in {name.split(".")[0] for name in imported_modules(path.read_text())}


def modules_by_name() -> dict[str, str]:
    """Return the source text of every module, by its dotted name."""
    files = {path.relative_to(PACKAGE.parent).with_suffix(""): path for path in PACKAGE.rglob("*.py")}
    return {".".join(name.parts).removesuffix(".__init__"): path.read_text() for name, path in files.items()}


def arrows_of(source: str, sources: dict[str, str]) -> set[str]:
    """Return which of some modules a source text imports; ``from package import module`` imports the module."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in sources else node.module for name in names}
    return found & sources.keys()


def circles(sources: dict[str, str]) -> set[str]:
    """Return the modules that import themselves, through whatever others."""
    arrows = {name: arrows_of(source, sources) - {name} for name, source in sources.items()}
    reached = dict(arrows)
    for _ in sources:
        further = {name: set().union(found, *(arrows[other] for other in found)) for name, found in reached.items()}
        if further == reached:
            break
        reached = further
    return {name for name, found in reached.items() if name in found}


def names_used_twice(sources: dict[str, str]) -> list[str]:
    """Return the names of classes and of modules that stand for two things."""
    classes = [
        node.name for text in sources.values() for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)
    ]
    files = [name.rpartition(".")[2] for name in sources]
    return sorted(name for found in (classes, files) for name, n in Counter(found).items() if n > 1)


def test_no_module_imports_itself():
    assert not circles(modules_by_name())


def test_what_the_benches_import_is_there():
    """mypy passes over modules that it does not find."""
    for path in (PACKAGE.parent / "bench").glob("*.py"):
        wanted = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
        assert {name for name in wanted if name.split(".")[0] == "raypipe"} <= modules_by_name().keys(), path.name


def test_a_bench_has_a_help():
    """Where nobody reads the arguments, --help measures for minutes and writes over the figures that are there."""
    texts = {path.stem: path.read_text() for path in (PACKAGE.parent / "bench").glob("*.py")}
    run = {name for name, text in texts.items() if f"python -m bench.{name}" in text and "__main__" in text}
    assert len(run) > 30
    assert {name for name in run if "ArgumentParser(" not in texts[name]} == set()


def test_a_name_stands_for_one_thing():
    assert not names_used_twice(modules_by_name())


WITHOUT_RAY = [
    path for room in ("unit", "thorough") for path in sorted((Path(__file__).parents[1] / room).glob("*.py"))
]


@pytest.mark.parametrize("path", WITHOUT_RAY, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_unit_test_imports_ray_at_its_top(path):
    """Inside a test it fails at once: see ``no_ray`` in the conftest beside this."""
    tops = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = set().union(*(imported_modules(ast.unparse(node)) for node in tops))
    assert not {name for name in names if name.split(".")[0] == "ray" or room_of(name) == "engine"}


def test_no_unit_test_can_import_ray():
    for module in ("ray", "ray.data", "raypipe.engine.session"):
        with pytest.raises(ImportError):
            importlib.import_module(module)


def test_the_rules_can_be_broken():
    assert circles({"a.b": "from a import c", "a.c": "def f():\n    import a.d", "a.d": "from a.b import x"}) == {
        "a.b",
        "a.c",
        "a.d",
    }
    assert names_used_twice({"a.b": "class X: pass", "c.b": "class X: pass"}) == ["X", "b"]
    assert upward_arrows("schema", "def f():\n    from raypipe.report import tables") == {"report"}
    assert upward_arrows("pipeline", "from raypipe.report import tables") == set()
    assert "ray" in {name.split(".")[0] for name in imported_modules("import ray.data")}


def loaded_by(*statements: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter has loaded after some statements."""
    tell = "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    code = "; ".join([*statements, "import sys, json", tell])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


HEAVY = {"ray", "torch", "numba", "numpy", "pyarrow", "sklearn", "matplotlib", "umap", "tslearn", "pandas"}


def test_importing_raypipe_is_light():
    assert not loaded_by("import raypipe") & HEAVY


def test_help_is_light():
    help_screen = "exec('try:\\n  cli.app([\"--help\"])\\nexcept SystemExit:\\n  pass')"
    assert not loaded_by("from raypipe import cli", help_screen) & HEAVY


def test_the_light_tests_can_fail():
    assert loaded_by("import numpy") & HEAVY


@pytest.mark.parametrize("module", ALONE_ON_A_GPU_MACHINE)
def test_importable_with_few_packages(module):
    # A GPU machine may lack these; the module must not need them to be imported.
    missing = ["ray", "cuml", "decord", "av", "pydantic", "open_clip", "tslearn", "umap", "pyarrow", "typer"]
    blocked = f"import sys; sys.modules.update(dict.fromkeys({missing!r}))"
    assert "raypipe" in loaded_by(blocked, f"import {module}")
