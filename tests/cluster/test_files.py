"""The files in `cluster/`: what can be known of them without a cloud, Kubernetes or Slurm."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from tskd_ray.cli import cli
from tskd_ray.config.load import is_override, load_config
from tskd_ray.distributed.metrics import COUNTERS, GAUGES, LABELS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster"
FILES = sorted(path.name for path in FOLDER.iterdir())
DASHBOARD = "grafana.json"
LAUNCHERS = [name for name in FILES if name.startswith("launcher-")]
CLOUDS = ["launcher-aws.yaml", "launcher-gcp.yaml"]
GUIDE = (ROOT / "docs/cluster.md").read_text()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
USED_BY = {
    "Dockerfile": "docker build --file cluster/Dockerfile",
    **{name: f"ray up cluster/{name}" for name in LAUNCHERS},
    **{name: f"kubectl apply -f cluster/{name}" for name in FILES if name.startswith("ray")},
    "requirements-aws.lock": "ray up cluster/launcher-aws.yaml",
    "requirements-gcp.lock": "ray up cluster/launcher-gcp.yaml",
    "slurm.sbatch": "sbatch cluster/slurm.sbatch",
    "storage.yaml": "kubectl apply -f cluster/storage.yaml",
}


def read(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


def pins(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", text, re.MULTILINE))


LOCK = pins((ROOT / "requirements.lock").read_text())


def settings_load(words: list[str]) -> None:
    """What follows `python -m tskd_ray` is a command that exists, with settings that load."""
    command = cli.commands[words[0]]
    with command.make_context(words[0], words[1:]) as context:
        settings: tuple[str, ...] = context.params["settings"]
    overrides = [setting for setting in settings if is_override(setting)]
    config = load_config(settings[0], overrides)
    assert Path(config.storage).is_absolute()
    assert Path(config.data.source).is_absolute()
    assert len(overrides) == len(settings) - 1


# -- every file ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in FILES if name in USED_BY])
def test_each_file_begins_with_the_command_that_uses_it(name: str) -> None:
    lines = (FOLDER / name).read_text().splitlines()
    header = "\n".join(lines[: next(i for i, line in enumerate(lines) if line[:1] != "#")])
    assert USED_BY[name] in header
    assert f"(../cluster/{name})" in GUIDE


def test_no_file_is_left_out() -> None:
    assert sorted([*USED_BY, DASHBOARD]) == FILES
    assert f"(../cluster/{DASHBOARD})" in GUIDE


@pytest.mark.parametrize("name", FILES)
def test_no_file_holds_a_token(name: str) -> None:
    assert not re.search(r"[0-9a-fA-F]{32}", (FOLDER / name).read_text())


def test_the_guide_names_files_and_settings_that_exist() -> None:
    blocks = re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines() if line.strip()]
    named = {path for line in lines for path in re.findall(r"\bcluster/[\w.-]+", line)}
    assert named
    assert all((ROOT / path).is_file() for path in named), named
    runs = [line for line in lines if "-- python -m tskd_ray" in line or "sbatch" in line]
    assert len(runs) == 3
    for line in runs:
        words = shlex.split(line)
        at = words.index("tskd_ray" if "tskd_ray" in words else "cluster/slurm.sbatch")
        settings_load(words[at + 1 :])


@pytest.mark.parametrize("name", ["requirements-aws.lock", "requirements-gcp.lock"])
def test_packages_for_a_cloud_are_pinned_and_come_on_top_of_the_lock(name: str) -> None:
    text = (FOLDER / name).read_text()
    packages = [line for line in text.splitlines() if line and line[0] != "#"]
    assert len(pins(text)) == len(packages) > 0
    assert not set(pins(text)) & set(LOCK)
    theirs = pins((ROOT / "tests/requirements-s3.lock").read_text())
    assert not set(theirs) & set(LOCK)
    assert all(
        theirs.get(package, version) == version for package, version in pins(text).items()
    )


# -- launcher --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAUNCHERS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ray_accepts_the_launcher_file(name: str) -> None:
    validate_config(prepare_config(read(name)))


@pytest.mark.parametrize("name", CLOUDS)
def test_a_cloud_gets_a_head_and_two_kinds_of_workers_in_fixed_numbers(name: str) -> None:
    config = read(name)
    kinds = dict(config["available_node_types"])
    head = kinds.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert set(kinds) == {"cpu", "gpu"}
    assert all(kind["min_workers"] == kind["max_workers"] >= 1 for kind in kinds.values())
    assert sum(kind["max_workers"] for kind in kinds.values()) == config["max_workers"]
    if config["provider"]["type"] == "gcp":  # elsewhere Ray looks the machine up
        machines = {name: kind["node_config"]["machineType"] for name, kind in kinds.items()}
        cpus = {name: int(machine.rpartition("-")[2]) for name, machine in machines.items()}
        assert kinds["cpu"]["resources"] == {"CPU": cpus["cpu"]}
        assert kinds["gpu"]["resources"] == {"CPU": cpus["gpu"], "GPU": 1}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_all_nodes_install_the_lock_and_ask_for_the_token(name: str) -> None:
    config = read(name)
    mounts: dict[str, str] = config["file_mounts"]
    assert mounts["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert mounts["~/requirements.lock"] == "requirements.lock"
    local = set(mounts.values()) - {"~/.ray/auth_token"}
    assert all((ROOT / path).is_file() for path in local)
    installs = "\n".join(config["setup_commands"] + config.get("head_setup_commands", []))
    assert set(re.findall(r"-r (\S+)", installs)) == set(mounts) - {"~/.ray/auth_token"}
    assert any("RAY_AUTH_MODE=token" in line for line in config["initialization_commands"])
    commands = [
        line for key, lines in config.items() if key.endswith("_commands") for line in lines
    ]
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_the_head_starts_the_workers_and_takes_jobs_on_localhost(name: str) -> None:
    config = read(name)
    head, worker = (
        config["head_start_ray_commands"][-1],
        config["worker_start_ray_commands"][-1],
    )
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert "--dashboard-host" not in head
    assert "--address=$RAY_HEAD_IP:6379" in worker
    assert "--head --port=6379" in head
    # With one kind of node, the newer autoscaler counts the head as a worker.
    assert ("RAY_enable_autoscaler_v2=0 ray start" in head) == (name not in CLOUDS)


# -- Kubernetes ------------------------------------------------------------------------------


def groups(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_the_job_runs_on_the_cluster_of_the_other_manifest() -> None:
    cluster, job = read("raycluster.yaml"), read("rayjob.yaml")
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]
    assert cluster["metadata"]["name"] != job["metadata"]["name"]


def test_the_cluster_has_the_locked_ray_a_token_and_both_kinds_of_workers() -> None:
    cluster = read("raycluster.yaml")["spec"]
    assert cluster["rayVersion"] == LOCK["ray"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    workers = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert set(workers) == {"cpu", "gpu"}
    for name, group in workers.items():
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] >= 1
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert ("nvidia.com/gpu" in limits) == (name == "gpu")


def test_all_pods_have_one_image_equal_limits_and_the_shared_folder() -> None:
    claim = read("storage.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    pods = [group["template"]["spec"] for group in groups(read("raycluster.yaml")["spec"])]
    containers = [container for pod in pods for container in pod["containers"]]
    (image,) = {container["image"] for container in containers}
    assert image.rpartition(":")[2] == PROJECT["version"]
    for pod in pods:
        (container,) = pod["containers"]
        assert re.fullmatch(r"ray-(head|worker)", container["name"])
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        paths = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        named = volumes[paths["/shared"]]["persistentVolumeClaim"]["claimName"]
        assert named == claim["metadata"]["name"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert f"USER {pod['securityContext']['runAsUser']}:" in dockerfile()


def test_the_entrypoint_is_a_command_on_the_shared_folder() -> None:
    words = shlex.split(read("rayjob.yaml")["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "tskd_ray"]
    settings_load(words[3:])
    assert any(word.startswith("storage=/shared/") for word in words)


@pytest.mark.skipif(
    "TSKD_KUBERAY_CRDS" not in os.environ, reason="TSKD_KUBERAY_CRDS: no folder"
)
@pytest.mark.parametrize(
    ("name", "definition"),
    [("raycluster.yaml", "ray.io_rayclusters.yaml"), ("rayjob.yaml", "ray.io_rayjobs.yaml")],
)
def test_kuberay_knows_every_field(name: str, definition: str) -> None:
    text = (Path(os.environ["TSKD_KUBERAY_CRDS"]) / definition).read_text()
    versions = yaml.load(text, Loader=yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = [v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == "v1"]
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(read(name), closed(schema))


def closed(schema: Any) -> Any:
    """The schema with unknown fields refused, which Kubernetes would drop in silence."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    is_open = {"additionalProperties", "x-kubernetes-preserve-unknown-fields"} & set(inner)
    return (
        inner
        if is_open or "properties" not in inner
        else inner | {"additionalProperties": False}
    )


# -- image -----------------------------------------------------------------------------------


def dockerfile() -> str:
    return (FOLDER / "Dockerfile").read_text().replace("\\\n", " ")


def test_the_image_is_built_from_files_that_exist() -> None:
    copied = re.findall(r"^COPY (.+) \S+$", dockerfile(), re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    assert {"requirements.lock", "pyproject.toml", "tskd_ray"} <= set(sources)
    assert {PROJECT["readme"], *PROJECT["license-files"]} <= set(sources)
    assert all((ROOT / source).exists() for source in sources)


def test_the_image_has_the_lock_the_package_and_no_root() -> None:
    text = dockerfile()
    base = re.search(r"^ARG BASE=python:3\.(\d+)-slim\nFROM \$\{BASE\}$", text, re.MULTILINE)
    assert base
    assert int(base[1]) >= int(PROJECT["requires-python"].rpartition(".")[2])
    steps = [
        text.index(step)
        for step in (
            'ARG TORCH_INDEX=""',
            '${TORCH_INDEX:+--index-url "$TORCH_INDEX"}',
            "pip install --no-cache-dir -r requirements.lock",
            "pip install --no-cache-dir --no-deps --no-build-isolation .",
            "USER 1000:1000",
        )
    ]
    assert steps == sorted(steps)
    assert "ENV HOME=/home/ray" in text
    assert {"torch", "setuptools"} <= set(LOCK)  # the one is looked up, the other builds
    assert not re.search(r"https?://|==\d", re.sub(r"^#.*", "", text, flags=re.MULTILINE))


# -- the dashboard ---------------------------------------------------------------------------


def test_the_dashboard_asks_only_for_metrics_that_exist() -> None:
    dashboard = json.loads((FOLDER / DASHBOARD).read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [one["query"] for one in dashboard["templating"]["list"][1:]]
    asked = {name for query in queries for name in re.findall(r"\bray_\w+", query)}
    ours = {f"ray_{name}" for name in GAUGES} | {f"ray_{name}_total" for name in COUNTERS}
    rays = {f"ray_{name}" for name in METRICS_GAUGES}
    assert asked <= ours | rays
    assert ours <= asked, "each of ours is shown"
    labels = {label for query in queries for label in re.findall(r"by \(([^)]*)\)", query)}
    assert labels == {", ".join(LABELS)}
    documented = set(re.findall(r"`(ray_tskd_\w+)`", GUIDE))
    assert documented == ours
