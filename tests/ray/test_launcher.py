"""The launcher's files of cluster_configs/, by Ray's own rules."""

from pathlib import Path

import jsonschema
import pytest
import yaml
from ray._private import ray_constants
from ray.autoscaler._private.util import prepare_config, validate_config

FOLDER = Path(__file__).resolve().parents[2] / "cluster_configs"
LAUNCHED = ["aws.yaml", "gcp.yaml", "onprem.yaml"]


def load(name: str) -> dict:
    return yaml.safe_load((FOLDER / name).read_text())


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_launcher_accepts(name):
    prepared = prepare_config(load(name))
    validate_config(prepared)
    assert prepared["head_node_type"] in prepared["available_node_types"]


def test_the_readme_has_rays_own_bound_of_what_a_job_sends():
    assert ray_constants.DASHBOARD_CLIENT_MAX_SIZE == 100 * 2**20
    assert "takes 100 MiB, zipped" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_schema_can_refuse(name):
    with pytest.raises(jsonschema.ValidationError):
        validate_config({**prepare_config(load(name)), "idle_timeout": 5})
