"""The files of cluster_configs/: valid for Ray and KubeRay, of one version, without credentials, and quoted right."""

import importlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "cluster_configs"
SUBMIT = FOLDER / "submit.py"
LAUNCHED = ["aws.yaml", "gcp.yaml", "onprem.yaml"]
KUBERAY = {"kuberay-rayjob.yaml": "RayJob", "kuberay-raycluster.yaml": "RayCluster"}
FILES = sorted(path.name for path in FOLDER.iterdir() if path.is_file())


def load(name: str) -> dict:
    return yaml.safe_load((FOLDER / name).read_text())


def test_every_way_has_its_file():
    expected = [*LAUNCHED, *KUBERAY, "slurm.sbatch", "Dockerfile", "submit.py", "README.md"]
    assert sorted(expected) == FILES


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_cloud_clusters_shrink_to_a_head_that_only_drives(name):
    config = load(name)
    types = dict(config["available_node_types"])
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    (gpu,) = types.values()
    assert (gpu["min_workers"], gpu["max_workers"]) == (0, config["max_workers"])
    assert gpu["resources"]["GPU"] > 1
    assert 0 < config["idle_timeout_minutes"] <= 15
    assert config["provider"]["cache_stopped_nodes"] is False


@pytest.mark.parametrize("name", LAUNCHED)
def test_nodes_start_with_the_token(name):
    config, text = load(name), (FOLDER / name).read_text()
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "RAY_AUTH_MODE=token" in text
    assert "--dashboard-host=0.0.0.0" not in text


def test_the_local_provider_gets_the_first_autoscaler():
    (start,) = [command for command in load("onprem.yaml")["head_start_ray_commands"] if "--head" in command]
    assert "RAY_enable_autoscaler_v2=0" in start


def ray_cluster(name: str) -> dict:
    """Return the spec of a RayCluster, which a RayJob holds too."""
    spec = load(name)["spec"]
    return spec["rayClusterSpec"] if KUBERAY[name] == "RayJob" else spec


@pytest.mark.parametrize(("name", "kind"), KUBERAY.items())
def test_kuberay_finds_what_it_requires(name, kind):
    loaded = load(name)
    assert (loaded["apiVersion"], loaded["kind"]) == ("ray.io/v1", kind)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,45}[a-z0-9])?", loaded["metadata"]["name"])
    spec = ray_cluster(name)
    assert isinstance(spec["rayVersion"], str)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        check_pod(group["template"]["spec"])
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        assert group["groupName"]
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] > 0
        (container,) = group["template"]["spec"]["containers"]
        resources = container["resources"]
        assert int(resources["limits"]["nvidia.com/gpu"]) > 1
        assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"]


def check_pod(pod: dict) -> None:
    """A Ray pod has one container, with limits, and shared memory of a bounded size within its memory."""
    (container,) = pod["containers"]
    assert container["image"]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == "/dev/shm"]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
    assert volume["emptyDir"]["medium"] == "Memory"
    share = gibibytes(volume["emptyDir"]["sizeLimit"]) / gibibytes(container["resources"]["limits"]["memory"])
    assert 0.3 <= share <= 0.35, "Ray's object store is 30 % of the memory, and spills to disk without room for it"


def gibibytes(quantity: str) -> int:
    assert quantity.endswith("Gi")
    return int(quantity[:-2])


def test_a_rayjob_ends_its_costs_with_the_run():
    spec = load("kuberay-rayjob.yaml")["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert 0 < spec["ttlSecondsAfterFinished"] <= 600
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["backoffLimit"] > 0
    python, script, *arguments = shlex.split(spec["entrypoint"])
    assert (python, script) == ("python", "/home/ray/submit.py")
    assert f"COPY --chown=ray:users cluster_configs/submit.py {script}" in (FOLDER / "Dockerfile").read_text()
    assert arguments[:3] == ["--wait", "GPU=8", "run"]


def test_both_kuberay_files_describe_the_same_ray_cluster():
    assert ray_cluster("kuberay-rayjob.yaml") == ray_cluster("kuberay-raycluster.yaml")


def test_versions_agree():
    texts = {name: (FOLDER / name).read_text() for name in FILES}
    images = {image for text in texts.values() for image in re.findall(r"registry\.example\.com/raypipe:[\w.-]+", text)}
    (image,) = images
    project = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    base = re.search(r"^FROM rayproject/ray:([\d.]+)-py(\d)(\d+)-(cu\d+)$", texts["Dockerfile"], re.MULTILINE)
    ray, major, minor, cuda = base.groups()
    assert image.endswith(f":{project}-ray{ray}-{cuda}")
    pins = {version for text in texts.values() for version in re.findall(r"ray\[[\w,]+\]==([\d.]+)", text)}
    assert pins == {ray}
    assert {ray_cluster(name)["rayVersion"] for name in KUBERAY} == {ray}
    pythons = {version for text in texts.values() for version in re.findall(r"python(3\.\d+)", text)}
    assert pythons == {f"{major}.{minor}"}


def test_the_shell_can_read_the_scripts():
    for script in (FOLDER / "slurm.sbatch", ROOT / "tests/helpers/ray_up.sh"):
        subprocess.run(["bash", "-n", str(script)], check=True)


def test_slurm_options_come_before_the_first_command():
    lines = (FOLDER / "slurm.sbatch").read_text().splitlines()
    options = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    commands = [i for i, line in enumerate(lines) if line and not line.startswith("#")]
    assert options
    assert max(options) < min(commands), "sbatch stops reading options at the first command"


def instructions(text: str) -> list[tuple[str, str]]:
    """Split a Dockerfile into its instructions."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def test_the_dockerfile_is_sound():
    lines = instructions((FOLDER / "Dockerfile").read_text())
    known = {"FROM", "USER", "RUN", "ENV", "WORKDIR", "COPY"}
    assert {verb for verb, _ in lines} <= known
    assert lines[0][0] == "FROM"
    assert ":latest" not in lines[0][1]
    assert [value for verb, value in lines if verb == "USER"][-1] == "ray"
    for _verb, value in (line for line in lines if line[0] == "COPY"):
        *sources, _target = [word for word in value.split() if not word.startswith("--")]
        assert all((ROOT / source).exists() for source in sources)
    for _verb, value in (line for line in lines if line[0] == "RUN"):
        subprocess.run(["bash", "-n", "-c", value], check=True)
        if "apt-get install" in value:
            assert "--no-install-recommends" in value
            assert "rm -rf /var/lib/apt/lists/*" in value
        if "pip install" in value:
            assert "--no-cache-dir" in value


def test_hadolint_has_nothing_to_say():
    if not shutil.which("hadolint"):
        pytest.skip("no hadolint here")
    subprocess.run(["hadolint", str(FOLDER / "Dockerfile")], check=True)


def test_the_readme_names_every_file_and_command():
    text = (FOLDER / "README.md").read_text()
    assert [name for name in FILES if name != "README.md" and f"`{name}`" not in text] == []
    for command in ("ray up", "ray submit", "ray down", "ray job submit", "kubectl apply", "sbatch", "docker build"):
        assert command in text
    for word in ("--address", "RAY_ADDRESS", "auto", "RAY_AUTH_MODE", "runtime-env-json", "idle"):
        assert word in text


CREDENTIAL = re.compile(
    r"AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}|-----BEGIN|AIza[\w-]{35}|gh[pousr]_\w{20}|hf_[A-Za-z]{20}|"
    r"(?i:(secret_access_key|access_key_id|session_token|password|RAY_AUTH_TOKEN)\s*[:=]\s*['\"]?[^\s'\"$<(]{6})"
)


@pytest.mark.parametrize("name", FILES)
def test_no_credentials(name):
    assert not CREDENTIAL.search((FOLDER / name).read_text())


def test_the_search_for_credentials_can_find():
    assert CREDENTIAL.search("key: AKIA" + "A" * 16)
    assert CREDENTIAL.search("AWS_SECRET_ACCESS_KEY=abcdefghij")
    assert not CREDENTIAL.search("RAY_AUTH_TOKEN_PATH=/x RAY_AUTH_TOKEN=$(cat token)")


# Everything that a shell would take apart: globs, blanks, quotes, variables, comments, a backslash, nothing.
AWKWARD = [
    "run", "s3://b/**/*.mp4", "*.md", "-o", "out dir", "--set", "a=b", "it's", 'say "x"', "$HOME", "`id`", "a;b&c|d",
    "(x)", "#no", "\\n", "", "~user", "{a,b}",
]  # fmt: skip


@pytest.fixture
def fake(tmp_path) -> Path:
    """Return a folder with a fake raypipe package that writes its arguments and address to a file."""
    package = tmp_path / "fake" / "raypipe"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import json, os, sys\n"
        "json.dump([sys.argv[1:], os.environ.get('RAY_ADDRESS')], open(os.environ['TOLD'], 'w'))\n"
        "sys.exit(3)\n"
    )
    return package.parent


def told_by(command: list[str], fake: Path, **variables: str) -> tuple[int, list[str], str]:
    """Run a command with the fake raypipe; return its exit code, and raypipe's arguments and address."""
    told = fake / "told.json"
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        command, env={**kept, "PYTHONPATH": str(fake), "TOLD": str(told), **variables}, cwd=FOLDER, check=False
    )
    return done.returncode, *json.loads(told.read_text())


def test_on_the_head_arguments_and_exit_code_pass(fake):
    assert told_by([sys.executable, str(SUBMIT), *AWKWARD], fake) == (3, AWKWARD, "auto")


def test_a_job_keeps_its_address(fake):
    assert told_by([sys.executable, str(SUBMIT), "run"], fake, RAY_ADDRESS="10.0.0.1:6379")[2] == "10.0.0.1:6379"


def remote_shell(arguments: list[str]) -> list[str]:
    """Return what the head's shell is given by `ray submit`: its arguments joined by blanks, as its source does."""
    inner = f"source /dev/null; (true && ({' '.join([sys.executable, str(SUBMIT), *arguments])}))"
    return ["bash", "-c", f"bash -c {shlex.quote(inner)}"]  # sshd's shell, and the launcher's within


@pytest.fixture
def submit(monkeypatch):
    """Return submit.py as a module."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("submit")


def test_arguments_survive_ray_submit(fake, submit):
    command = submit.submission("c.yaml", ["--start", "--cluster-name=x", *AWKWARD])
    assert command[:5] == ["ray", "submit", "--start", "--cluster-name=x", "c.yaml"]
    assert Path(command[5]) == SUBMIT
    assert command[6] == "--"
    assert told_by(remote_shell(command[7:]), fake)[1] == AWKWARD


def test_without_it_they_would_not(fake):
    arguments = told_by(remote_shell(["run", "*.md", "-o", "out dir"]), fake)[1]
    assert arguments == ["run", "README.md", "-o", "out", "dir"]


def test_the_launcher_is_called(tmp_path):
    ray = tmp_path / "ray"
    ray.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 4\n')
    ray.chmod(0o755)
    done = subprocess.run(
        [sys.executable, SUBMIT, "my.yaml", "--wait", "GPU=2", "run", "s3://b/**/*.mp4"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert done.stdout.split() == [
        "submit",
        "my.yaml",
        str(SUBMIT),
        "--",
        "--wait",
        "GPU=2",
        "run",
        "'s3://b/**/*.mp4'",
    ]


@pytest.mark.parametrize("arguments", [["--wait"], ["--wait", "GPU"], ["--wait", "GPU=two", "run"], ["--wait", "=2"]])
def test_a_wrong_wait_is_said_in_a_line(arguments):
    done = subprocess.run([sys.executable, SUBMIT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().startswith("submit.py: --wait takes")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.fixture
def requests(submit, monkeypatch) -> list:
    """Replace Ray by one that gains a GPU node at the third look; return what is asked of its autoscaler."""
    asked = []
    looks = chain([{}, {"GPU": 4.0}], repeat({"GPU": 8.0, "CPU": 96.0}))
    ray = SimpleNamespace(
        init=lambda **_: None, shutdown=lambda: asked.append("gone"), cluster_resources=lambda: next(looks)
    )
    sdk = SimpleNamespace(request_resources=lambda bundles: asked.append(bundles))
    for name, module in {"ray": ray, "ray.autoscaler": SimpleNamespace(sdk=sdk), "ray.autoscaler.sdk": sdk}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(submit.time, "sleep", lambda _: None)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield asked
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_waiting_ends_when_all_is_there_and_the_request_is_withdrawn(submit, requests, capsys):
    submit.wait_for({"GPU": 8})
    assert requests == [[{"GPU": 1}] * 8, [], "gone"]
    assert capsys.readouterr().out.splitlines() == ["waiting for nodes: 0 of 8 GPU", "waiting for nodes: 4 of 8 GPU"]


def test_a_request_that_is_not_met_is_withdrawn_too(submit, requests):
    with pytest.raises(SystemExit, match="there is still only 0 of 9 GPU"):
        submit.wait_for({"GPU": 9}, patience_s=-1)
    assert requests == [[{"GPU": 1}] * 9, [], "gone"]


def test_a_ray_cluster_that_cannot_be_reached_is_said_in_a_line(submit, requests, monkeypatch):
    def fail(**_):
        raise ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")

    monkeypatch.setattr(sys.modules["ray"], "init", fail)
    with pytest.raises(SystemExit, match=r"submit\.py: Failed to connect .*; if it asks for a token, RAY_AUTH_MODE"):
        submit.wait_for({"GPU": 8})
    assert requests == []


def test_a_stopped_wait_withdraws_its_request(submit, requests, monkeypatch):
    monkeypatch.setattr(submit.time, "sleep", lambda _: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit):
        submit.wait_for({"GPU": 8})
    assert requests == [[{"GPU": 1}] * 8, [], "gone"]
