"""What `raypipe doctor` says of versions, which it reads from the metadata that pyproject.toml became."""

import importlib.metadata
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from raypipe import doctor
from raypipe.doctor import examine, find_too_old
from raypipe.errors import RaypipeError

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def install(monkeypatch, requires: list[str], versions: dict[str, str]) -> None:
    """Pretend that raypipe asks for these packages, and that these versions are installed."""

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requires)
    monkeypatch.setattr(importlib.metadata, "version", version)


def test_what_is_older_than_its_bound_is_said(monkeypatch):
    requires = [
        "av>=18",
        "numpy>=2.0",
        "ray[data,default]>=2.51",
        "decord>=0.6; platform_machine in 'x86_64'",
        'cupy-cuda13x>=14; extra == "gpu"',
        'numba<0.65; extra == "gpu"',
        "missing>=1",
        'raypipe[test]; extra == "dev"',
    ]
    install(
        monkeypatch,
        requires,
        {"av": "17.0.0", "numpy": "2.0", "ray": "2.9.3", "decord": "0.6.0", "cupy-cuda13x": "13.6", "numba": "0.66"},
    )
    assert list(find_too_old()) == [
        "too old    av 17.0.0: pip install 'av>=18'",
        "too old    ray 2.9.3: pip install 'ray>=2.51'",
        "too old    cupy-cuda13x 13.6: pip install 'cupy-cuda13x>=14'",
    ]


def test_nothing_is_too_old_here():
    assert list(find_too_old()) == []


def test_source_that_is_not_installed_says_nothing_of_versions(monkeypatch):
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    assert list(find_too_old()) == []


def test_every_dependency_has_a_lower_bound():
    """Without one, `.ci/lowest` would take the oldest release that there ever was."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    for line in [*project["dependencies"], *(each for of in project["optional-dependencies"].values() for each in of)]:
        requirement = Requirement(line)
        bounded = any(each.operator in (">=", "==", "<") for each in requirement.specifier)
        assert bounded or requirement.name in ("raypipe", "types-PyYAML"), requirement


@pytest.mark.parametrize("version", [5, None, RaypipeError("libtorchcodec cannot be loaded")])
def test_torchcodec_without_ffmpeg_is_said(monkeypatch, version):
    """The package is there, and of no use: it does not bring FFmpeg's libraries."""

    def require(name: str) -> SimpleNamespace:
        if isinstance(version, RaypipeError):
            raise version
        return SimpleNamespace(ffmpeg_major_version=version)

    monkeypatch.setattr(doctor, "is_installed", lambda name: name == "torchcodec")
    monkeypatch.setattr(doctor, "require", require)
    (line,) = (line for line in examine() if line.startswith("optional   torchcodec: "))
    assert ("finds no FFmpeg" in line) == (version != 5)
    assert "installed" in line
