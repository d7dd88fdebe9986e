"""The cluster definitions, checked without a cluster: known fields, Ray's own validation, linters, pins, flags."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.sweep_job import FIELDS

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "cluster" / "deploy"
MANIFESTS, CLOUDS = ["rayjob.yaml", "raycluster.yaml"], ["aws.yaml", "gcp.yaml"]
BIN = Path(sys.executable).parent
# The fields of `ray.io/v1` (KubeRay 1.5) and of core/v1 pods that ours use, and those whose keys are anyone's.
KUBERAY_FIELDS = {
    *("apiVersion", "kind", "metadata", "spec", "name", "entrypoint", "submissionMode", "shutdownAfterJobFinishes"),
    *("ttlSecondsAfterFinished", "backoffLimit", "rayClusterSpec", "rayVersion", "enableInTreeAutoscaling"),
    *("autoscalerOptions", "idleTimeoutSeconds", "authOptions", "mode", "headGroupSpec", "workerGroupSpecs"),
    *("groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template", "containers", "image"),
    *("ports", "containerPort", "envFrom", "secretRef", "resources", "requests", "limits", "nodeSelector"),
    *("tolerations", "key", "operator", "effect", "terminationGracePeriodSeconds"),
}
ANY_KEYS = {"rayStartParams", "nodeSelector", "requests", "limits"}


def read(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


def fields_of(part: Any) -> set[str]:
    if not isinstance(part, dict):
        return set[str]().union(*map(fields_of, part if isinstance(part, list) else ()))
    return {*part}.union(*(fields_of(inner) for name, inner in part.items() if name not in ANY_KEYS))


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_hold_what_kuberay_knows_workers_between_bounds_and_a_head_without_work(name: str) -> None:
    manifest = read(name)
    assert manifest["apiVersion"] == "ray.io/v1"
    assert fields_of(manifest) <= KUBERAY_FIELDS
    cluster = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("name", CLOUDS)
def test_cloud_configurations_pass_rays_own_checks(name: str) -> None:
    config = prepare_config(read(name))
    validate_config(config)
    with pytest.raises(jsonschema.ValidationError):
        validate_config({**config, "max_worker": 3})
    workers = config["available_node_types"]["spot_gpu"]
    spot = workers["node_config"].get("InstanceMarketOptions") or workers["node_config"]["scheduling"][0]
    assert spot in ({"MarketType": "spot"}, {"preemptible": True})
    assert workers["resources"]["GPU"] == 1
    assert workers["resources"]["memory"] > 0  # without it, GCP's autoscaler brings nothing for an actor that asks
    assert config["available_node_types"]["head"]["resources"]["CPU"] == 0


def test_the_dockerfile_is_sound_and_slurm_starts_a_head_with_this_address_for_the_sweep(tmp_path: Path) -> None:
    """Run the script with stand-ins for Slurm's commands, which print their arguments."""
    subprocess.run([BIN / "hadolint", FOLDER / "Dockerfile"], check=True)
    copied = re.findall(r"^COPY \S+ (.+) \S+$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    assert all((ROOT / name).exists() for line in copied for name in line.split())
    subprocess.run([BIN / "shellcheck", FOLDER / "slurm.sh"], check=True)
    assert os.access(FOLDER / "slurm.sh", os.X_OK)
    for name, says in {"scontrol": "seq -f n%g 99999", "srun": 'echo "$RAY_AUTH_MODE" "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{says}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "16"}
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **slurm}
    said = subprocess.check_output([FOLDER / "slurm.sh", "--out", "/shared/a b"], env=environment, text=True)
    assert said.startswith("token --kill-on-bad-exit=1 ray symmetric-run --address ")
    assert "--min-nodes 2 --num-cpus 16 -- env RAY_ADDRESS=" in said
    assert said.endswith("python jobs/sweep.py --out /shared/a b\n")


@pytest.mark.parametrize("name", [*MANIFESTS, *CLOUDS, "slurm.sh", "Dockerfile"])
def test_each_opens_with_a_how_to_and_pins_a_version_of_ray_that_the_package_allows(name: str) -> None:
    text = (FOLDER / name).read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#!")]
    assert all(line.startswith("# ") for line in lines[:3])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (allowed,) = (r for r in map(Requirement, project["dependencies"]) if r.name == "ray")
    versions = re.findall(r'rayproject/ray:([\d.]+)|ray\[default\]==([\d.]+)|rayVersion: "([\d.]+)"', text)
    pins = {version for groups in versions for version in groups if version}
    assert name == "slurm.sh" or len(pins) == 1
    assert all(allowed.specifier.contains(pin) for pin in pins)
    assert set(re.findall(r"/eexit:([^\s\"]+)", text)) <= {project["version"]}, "never latest"
    if name.endswith(".yaml"):  # whose sweeps have flags that exist
        sweeps = re.findall(r"sweep\.py[^\n]*(?:\n#? +--[^\n]*)?", text)
        flags = {flag for line in sweeps for flag in re.findall(r"--([a-z-]+)", line)}
        assert {"out", "actors", "gpus-per-actor"} <= flags  # at first there is no GPU that a sweep could find itself
        assert {flag.replace("-", "_") for flag in flags} - {"config"} <= set(FIELDS)
