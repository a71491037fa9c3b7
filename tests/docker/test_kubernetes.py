"""docker/kubernetes: the manifests match the API's schema, without unknown fields, and are consistent."""

import json
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
import yaml
from celery import Celery

from app.core.settings import BadSettings, load
from tests.docker.test_compose import SERVICES

KUBERNETES: Final = Path(__file__).parents[2] / "docker" / "kubernetes"
SCHEMAS: Final[dict[str, Any]] = json.loads((Path(__file__).parent / "schemas" / "kubernetes-1.34.json").read_text())
NON_CORE_FILES: Final = ("kustomization.yaml", "scaled-object.yaml")

Manifest = dict[str, Any]


def documents(path: Path) -> list[Manifest]:
    return list(yaml.safe_load_all(path.read_text()))


SECRETS: Final[dict[str, dict[str, str]]] = {
    secret["metadata"]["name"]: secret["stringData"] for secret in documents(KUBERNETES / "secret.example.yaml")
}


def manifests() -> list[Manifest]:
    paths = (path for path in sorted(KUBERNETES.rglob("*.yaml")) if path.name not in NON_CORE_FILES)
    return [manifest for path in paths for manifest in documents(path)]


def full_name(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def pods() -> list[tuple[str, Manifest]]:
    return [
        (full_name(manifest), manifest["spec"]["template"]["spec"])
        for manifest in manifests()
        if "template" in manifest.get("spec", {})
    ]


def deployments() -> dict[str, Manifest]:
    return {manifest["metadata"]["name"]: manifest for manifest in manifests() if manifest["kind"] == "Deployment"}


def schema_errors(manifest: Manifest) -> list[str]:
    kind = SCHEMAS["kinds"][f"{manifest['apiVersion']}/{manifest['kind']}"]
    schema = {"$ref": f"#/$defs/{kind}", "$defs": SCHEMAS["$defs"]}
    errors = jsonschema.Draft202012Validator(schema).iter_errors(manifest)
    return [f"{error.json_path}: {error.message}" for error in errors]


@pytest.mark.parametrize("manifest", manifests(), ids=full_name)
def test_manifest_matches_schema(manifest: Manifest) -> None:
    assert schema_errors(manifest) == []


def test_unknown_field_is_an_error() -> None:
    manifest = next(manifest for manifest in manifests() if manifest["kind"] == "Deployment")
    manifest["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    [error] = schema_errors(manifest)
    assert "readinesProbe" in error


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl to render the manifests")
@pytest.mark.parametrize("name", ["base", "autoscaling"])
def test_rendered_manifests_are_consistent(name: str) -> None:
    done = subprocess.run(["kubectl", "kustomize", KUBERNETES / name], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    rendered = {full_name(manifest): manifest for manifest in yaml.safe_load_all(done.stdout)}
    train = rendered["Deployment grouptune-worker-train"]
    if name == "autoscaling":
        scaled_object = rendered.pop("ScaledObject grouptune-worker-train")
        assert scaled_object["spec"]["scaleTargetRef"]["name"] == train["metadata"]["name"]
        assert "replicas" not in train["spec"], "KEDA sets the replicas"
    assert {name for name, manifest in rendered.items() if schema_errors(manifest)} == set()
    [config] = [manifest["metadata"]["name"] for manifest in rendered.values() if manifest["kind"] == "ConfigMap"]
    for manifest in rendered.values():
        if manifest["kind"] == "Deployment":
            assert manifest["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/part-of"] == "grouptune"
            [container] = manifest["spec"]["template"]["spec"]["containers"]
            assert container["envFrom"][0] == {"configMapRef": {"name": config}}
            assert container["image"].endswith(":0.1.0")


def test_base_lists_all_its_manifests() -> None:
    listed = set(documents(KUBERNETES / "base" / "kustomization.yaml")[0]["resources"])
    assert listed == {path.name for path in (KUBERNETES / "base").glob("*.yaml")} - {"kustomization.yaml"}


@pytest.mark.parametrize(("name", "pod"), pods(), ids=[name for name, _ in pods()])
def test_pod_is_unprivileged_and_mounts_its_volumes(name: str, pod: Manifest) -> None:
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
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_selectors_match_labels_of_their_manifest() -> None:
    labels = {
        manifest["metadata"]["name"]: manifest["metadata"].get("labels")
        for manifest in manifests()
        if manifest["kind"] == "Deployment"
    }
    for manifest in manifests():
        selector = manifest.get("spec", {}).get("selector")
        if selector is not None and manifest["kind"] != "PersistentVolumeClaim":
            assert selector.get("matchLabels", selector) == labels[manifest["metadata"]["name"]]


def test_commands_match_compose_file() -> None:
    commands = {name: pod["containers"][0].get("args") for name, pod in pods()}
    assert commands["Deployment grouptune-worker-train"] == SERVICES["worker-gpu"]["command"]
    assert commands["Deployment grouptune-worker-default"] == SERVICES["worker-default"]["command"]
    assert commands["Deployment grouptune-engine"] == SERVICES["engine"]["command"]
    assert commands["Job grouptune-migrate"] == SERVICES["migrate"]["command"]


def test_api_and_evals_alone_reach_the_engine() -> None:
    policies = {
        manifest["metadata"]["name"]: manifest["spec"]
        for manifest in manifests()
        if manifest["kind"] == "NetworkPolicy"
    }
    label = "app.kubernetes.io/name"
    engine = {"matchLabels": {label: "grouptune-engine"}}
    values = ["grouptune-api", "grouptune-worker-default"]
    clients = {"matchExpressions": [{"key": label, "operator": "In", "values": values}]}
    own = policies["grouptune-engine"]
    assert (own["podSelector"], own["policyTypes"], "egress" in own) == (engine, ["Ingress", "Egress"], False)
    assert [rule["from"] for rule in own["ingress"]] == [[{"podSelector": clients}]]
    out = policies["grouptune-to-engine"]
    assert (out["podSelector"], out["egress"][0]["to"]) == (clients, [{"podSelector": engine}])
    [default] = policies["grouptune-default"]["podSelector"]["matchExpressions"]
    assert default == {"key": "app.kubernetes.io/name", "operator": "NotIn", "values": ["grouptune-engine"]}


def test_no_process_trusts_every_proxy() -> None:
    texts = [path.read_text() for path in KUBERNETES.rglob("*.yaml")]
    lines = [line for text in texts for line in text.splitlines() if "FORWARDED_ALLOW_IPS" in line]
    assert [line.partition("=")[2] for line in lines] == ["127.0.0.1"]


def test_model_servers_example_opens_ports_to_named_places() -> None:
    [policy] = documents(KUBERNETES / "model-servers.example.yaml")
    [selected] = policy["spec"]["podSelector"]["matchExpressions"]
    assert set(selected["values"]) == set(deployments()) - {"grouptune-engine"}
    for rule in policy["spec"]["egress"]:
        assert all(rule["to"])
        assert all(rule["ports"])


def test_many_workers_example_joins_the_training_workers_only() -> None:
    [policy] = documents(KUBERNETES / "many-workers.example.yaml")
    workers = {"matchLabels": {"app.kubernetes.io/name": "grouptune-worker-train"}}
    assert "grouptune-worker-train" in deployments()
    assert policy["spec"] == {
        "podSelector": workers,
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"podSelector": workers}]}],
        "egress": [{"to": [{"podSelector": workers}]}],
    }


def secrets_of(pod: Manifest) -> set[str]:
    """Return the names of the secrets that a pod can read."""
    [container] = pod["containers"]
    assert all("secret" not in str(volume) for volume in pod["volumes"])
    assert all("valueFrom" not in entry for entry in container.get("env", ()))
    return {source["secretRef"]["name"] for source in container["envFrom"] if "secretRef" in source}


def test_each_role_has_only_the_secrets_it_needs() -> None:
    worker = {"grouptune-worker", "grouptune-keys"}
    assert {name: secrets_of(pod) for name, pod in pods()} == {
        "Deployment grouptune-api": {"grouptune-api", "grouptune-keys", "grouptune-engine"},
        "Deployment grouptune-worker-default": worker | {"grouptune-engine"},
        "Deployment grouptune-worker-train": worker,
        "Deployment grouptune-engine": {"grouptune-engine"},
        "Job grouptune-migrate": {"grouptune-migrate"},
    }
    keys = {name: set(values) for name, values in SECRETS.items()}
    assert keys["grouptune-engine"] == {"GROUPTUNE_SERVE_API_KEY"}
    assert keys["grouptune-migrate"] == {"DATABASE_URL"}
    assert keys["grouptune-keys"] == {"GROUPTUNE_SECRET_KEYS"}
    assert "GROUPTUNE_METRICS_TOKEN" not in keys["grouptune-worker"]


def test_lost_node_stops_no_kind_of_request() -> None:
    """One engine: each needs an address of its own. One training worker: their number is the operator's choice."""
    replicas = {name: manifest["spec"]["replicas"] for name, manifest in deployments().items()}
    assert replicas == {
        "grouptune-api": 2,
        "grouptune-worker-default": 2,
        "grouptune-worker-train": 1,
        "grouptune-engine": 1,
    }
    for name in ("grouptune-api", "grouptune-worker-default"):
        [spread] = deployments()[name]["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert spread["labelSelector"] == {"matchLabels": {"app.kubernetes.io/name": name}}


EXAMPLE_SECRETS: Final[dict[str, str]] = {name: value for own in SECRETS.values() for name, value in own.items()}


@pytest.mark.parametrize("name", EXAMPLE_SECRETS)
def test_example_secret_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUPTUNE_STORAGE_URL", "s3://grouptune")
    monkeypatch.setenv(name, EXAMPLE_SECRETS[name])
    with pytest.raises(BadSettings, match=f"^{name}.*secret of an example"):
        load()


def test_example_checks_the_brokers_certificate() -> None:
    assert Celery(broker=EXAMPLE_SECRETS["REDIS_URL"]).connection().ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    assert EXAMPLE_SECRETS["DATABASE_URL"].endswith("?sslmode=verify-full")


def test_autoscaling_uses_existing_metric() -> None:
    [scaled_object] = documents(KUBERNETES / "autoscaling" / "scaled-object.yaml")
    [trigger] = scaled_object["spec"]["triggers"]
    assert trigger["metadata"]["query"] == "max(grouptune_wanted_workers)"
    assert "`grouptune_wanted_workers`" in (KUBERNETES.parents[1] / "docs" / "observability.md").read_text()
    assert scaled_object["spec"]["scaleTargetRef"]["name"] in {manifest["metadata"]["name"] for manifest in manifests()}
