"""docker/kubernetes: what the cluster's API would accept, without a field that it does not know, and fits together."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
import yaml

from tests.docker.test_compose import SERVICES

KUBERNETES: Final = Path(__file__).parents[2] / "docker" / "kubernetes"
SCHEMAS: Final[dict[str, Any]] = json.loads((Path(__file__).parent / "schemas" / "kubernetes-1.34.json").read_text())
NOT_OF_THE_CORE: Final = ("kustomization.yaml", "scaled-object.yaml")

Manifest = dict[str, Any]


def documents(path: Path) -> list[Manifest]:
    return list(yaml.safe_load_all(path.read_text()))


def manifests() -> list[Manifest]:
    paths = (path for path in sorted(KUBERNETES.rglob("*.yaml")) if path.name not in NOT_OF_THE_CORE)
    return [one for path in paths for one in documents(path)]


def named(one: Manifest) -> str:
    return f"{one['kind']} {one['metadata']['name']}"


def pods() -> list[tuple[str, Manifest]]:
    return [(named(one), one["spec"]["template"]["spec"]) for one in manifests() if "template" in one.get("spec", {})]


def complaints(manifest: Manifest) -> list[str]:
    kind = SCHEMAS["kinds"][f"{manifest['apiVersion']}/{manifest['kind']}"]
    schema = {"$ref": f"#/$defs/{kind}", "$defs": SCHEMAS["$defs"]}
    errors = jsonschema.Draft202012Validator(schema).iter_errors(manifest)
    return [f"{error.json_path}: {error.message}" for error in errors]


@pytest.mark.parametrize("manifest", manifests(), ids=named)
def test_every_field_is_one_that_kubernetes_knows(manifest: Manifest) -> None:
    assert complaints(manifest) == []


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    manifest = next(one for one in manifests() if one["kind"] == "Deployment")
    manifest["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    [complaint] = complaints(manifest)
    assert "readinesProbe" in complaint


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl renders what it would apply")
@pytest.mark.parametrize("name", ["base", "autoscaling"])
def test_what_is_rendered_is_valid_and_belongs_together(name: str) -> None:
    done = subprocess.run(["kubectl", "kustomize", KUBERNETES / name], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    rendered = {named(one): one for one in yaml.safe_load_all(done.stdout)}
    train = rendered["Deployment grouptune-worker-train"]
    if name == "autoscaling":
        scaled = rendered.pop("ScaledObject grouptune-worker-train")
        assert scaled["spec"]["scaleTargetRef"]["name"] == train["metadata"]["name"]
        assert "replicas" not in train["spec"], "two would set it"
    assert {one for one, manifest in rendered.items() if complaints(manifest)} == set()
    [config] = [one["metadata"]["name"] for one in rendered.values() if one["kind"] == "ConfigMap"]
    for one in rendered.values():
        if one["kind"] == "Deployment":
            assert one["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/part-of"] == "grouptune"
            [container] = one["spec"]["template"]["spec"]["containers"]
            assert container["envFrom"][0] == {"configMapRef": {"name": config}}
            assert container["image"].endswith(":0.1.0")


def test_every_manifest_of_the_base_is_in_its_list() -> None:
    listed = set(documents(KUBERNETES / "base" / "kustomization.yaml")[0]["resources"])
    assert listed == {path.name for path in (KUBERNETES / "base").glob("*.yaml")} - {"kustomization.yaml"}


@pytest.mark.parametrize(("name", "pod"), pods(), ids=[name for name, _ in pods()])
def test_pods_are_closed_and_mount_what_they_declare(name: str, pod: Manifest) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"]
        assert container["resources"]["limits"]["memory"]
        assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}


def test_selectors_choose_the_pods_of_their_own_manifest() -> None:
    labels = {
        one["metadata"]["name"]: one["metadata"].get("labels") for one in manifests() if one["kind"] == "Deployment"
    }
    for one in manifests():
        selector = one.get("spec", {}).get("selector")
        if selector is not None and one["kind"] != "PersistentVolumeClaim":
            assert selector.get("matchLabels", selector) == labels[one["metadata"]["name"]]


def test_workers_run_the_commands_of_the_compose_file() -> None:
    commands = {name: pod["containers"][0].get("args") for name, pod in pods()}
    assert commands["Deployment grouptune-worker-train"] == SERVICES["worker-gpu"]["command"]
    assert commands["Deployment grouptune-worker-default"] == SERVICES["worker-default"]["command"]
    assert commands["Job grouptune-migrate"] == SERVICES["migrate"]["command"]


def test_the_clock_of_the_sweeps_runs_once() -> None:
    """Celery's beat has no lock: two of them would ring twice."""
    [default] = [one for one in manifests() if one["metadata"]["name"] == "grouptune-worker-default"]
    assert "--beat" in default["spec"]["template"]["spec"]["containers"][0]["args"]
    assert (default["spec"]["replicas"], default["spec"]["strategy"]) == (1, {"type": "Recreate"})
    assert "replicas" not in SERVICES["worker-default"].get("deploy", {})


def test_scaling_follows_a_metric_that_exists() -> None:
    [scaled] = documents(KUBERNETES / "autoscaling" / "scaled-object.yaml")
    [trigger] = scaled["spec"]["triggers"]
    assert "grouptune_jobs{" in trigger["metadata"]["query"]
    assert "`grouptune_jobs`" in (KUBERNETES.parents[1] / "docs" / "observability.md").read_text()
    assert scaled["spec"]["scaleTargetRef"]["name"] in {one["metadata"]["name"] for one in manifests()}
