"""The launcher's files of cluster_configs/, by Ray's own rules."""

from pathlib import Path

import jsonschema
import pytest
import yaml
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


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_schema_can_refuse(name):
    with pytest.raises(jsonschema.ValidationError):
        validate_config({**prepare_config(load(name)), "idle_timeout": 5})
