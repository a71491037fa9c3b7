"""docker/compose.yaml holds together, and lets no service have more than it needs."""

import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from cryptography.fernet import Fernet

DOCKER: Final = Path(__file__).parents[2] / "docker"
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
OWN: Final = ("proxy-volume", "s3-volume")
"""They give a volume to the user who runs the next service, as root, without a network, once."""
ROOT_ONLY_FOR: Final = {"proxy-volume": ["CHOWN"], "s3-volume": ["CHOWN"], "proxy": ["NET_BIND_SERVICE"]}
_VARIABLE: Final = re.compile(r"\$\{(\w+):-([^}]*)\}")


def rendered(text: str) -> str:
    """With the defaults of its variables."""
    return _VARIABLE.sub(r"\2", text)


def mounts(service: dict[str, Any]) -> list[tuple[str, str]]:
    return [(source, target) for source, target, *_ in (one.split(":") for one in service.get("volumes", ()))]


def made_secrets(directory: Path) -> dict[str, Path]:
    """What secrets.sh makes in a copy of it."""
    script = directory / "secrets.sh"
    script.write_bytes((DOCKER / "secrets.sh").read_bytes())
    subprocess.run(["sh", str(script)], check=True, capture_output=True)
    return {path.name: path for path in (directory / "secrets").iterdir()}


def test_every_field_is_one_that_compose_knows(tmp_path: Path) -> None:
    check = [str(Path(sys.executable).with_name("check-jsonschema")), "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, str(DOCKER / "compose.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((DOCKER / "compose.yaml").read_text().replace("read_only: true", "readonly: true"))
    assert "'readonly' was unexpected" in subprocess.run([*check, str(wrong)], capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_refers_to_exists(name: str) -> None:
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
def test_no_service_can_change_its_image_gain_rights_or_be_root(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("cap_add", []) == ROOT_ONLY_FOR.get(name, [])
    if name in OWN:
        assert (service["user"], service["network_mode"]) == ("0:0", "none")
    elif "user" in service:
        assert int(service["user"].partition(":")[0]) > 0
    else:  # an image of ours, which says USER
        assert rendered(service["image"]) in ("grouptune-api", "grouptune-worker")


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {*OWN, "migrate"}))
def test_a_service_that_stays_tells_whether_it_is_well(name: str) -> None:
    ours = "build" in SERVICES[name]  # the image has a check
    assert ours or "test" in SERVICES[name]["healthcheck"]


def test_images_of_others_have_a_version_and_can_be_replaced() -> None:
    others = {service["image"] for service in SERVICES.values() if "build" not in service}
    for image in others:
        assert _VARIABLE.fullmatch(image), f"{image}: an operator pins it by a digest in a variable"
        assert re.fullmatch(r"[a-z.]+/[\w./-]+:.*\d.*", rendered(image))
        assert not rendered(image).endswith(":latest")


def test_nothing_is_published_beyond_this_machine_and_engines_have_no_way_out() -> None:
    ports = [rendered(port) for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []
    assert COMPOSE["networks"]["data"]["internal"] is True
    for engine in ("postgres", "valkey", "s3"):
        assert SERVICES[engine]["networks"] == ["data"]


def test_the_script_makes_every_secret_once(tmp_path: Path) -> None:
    made = made_secrets(tmp_path)
    assert set(made) == {Path(one["file"]).name for one in COMPOSE["secrets"].values()}
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == stat.S_IRWXU
    before = {name: path.read_text() for name, path in made.items()}
    assert all(before.values())
    Fernet(before["secret_keys"].strip())
    assert before["postgres_password"] in before["database_url"]
    assert before["valkey_password"] in before["redis_url"]
    assert before["valkey.conf"] == f"requirepass {before['valkey_password']}\n"
    again = made_secrets(tmp_path)
    assert {name: path.read_text() for name, path in again.items()} == before
    other = tmp_path / "other"
    other.mkdir()
    assert made_secrets(other)["metrics_token"].read_text() != before["metrics_token"]


def test_prometheus_asks_the_services_that_there_are_on_the_ports_that_they_have() -> None:
    scraped = yaml.safe_load((DOCKER / "prometheus.yml").read_text())["scrape_configs"]
    asked = {(name, one["port"]) for job in scraped for one in job["dns_sd_configs"] for name in one["names"]}
    workers = {name for name in SERVICES if name.startswith("worker-")}
    assert asked == {("api", 8000)} | {(name, 9200) for name in workers}
    for name in workers:
        assert SERVICES[name]["environment"]["GROUPTUNE_WORKER_METRICS_PORT"] == "9200"


def test_alerts_ask_for_metrics_that_exist() -> None:
    rules = yaml.safe_load((DOCKER / "alerts.yml").read_text())["groups"][0]["rules"]
    named = {name for rule in rules for name in re.findall(r"grouptune_\w+", rule["expr"])}
    documented = (DOCKER.parent / "docs" / "observability.md").read_text()
    assert named
    assert {name for name in named if f"`{name}`" not in documented} == set()
