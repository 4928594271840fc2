"""compose.yaml as Docker Compose itself reads it: what is open, what is bounded, and that services start with it."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from local import binaries
from local.cli import app
from tests.support.charts import ROOT, SERVICES

ONCE = {*(f"{service}-migration" for service in SERVICES), "nats-volume", "streams", "check", "checker-grants"}
Service = dict[str, Any]


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's folder as a person has it after the documented command."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "compose.yaml").write_text((ROOT / "compose.yaml").read_text())
    done = CliRunner().invoke(app, ["deploy", "compose", "--folder", str(folder / "compose")])
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="session")
def read(project: Path) -> Service:
    """What Compose makes of the file. Raises AssertionError where it refuses it."""
    program = os.environ.get("FLORIN_COMPOSE", "docker-compose")
    done = subprocess.run(
        [program, "--project-directory", str(project), "--profile", "*", "config", "--format", "json"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(project)},
    )
    assert done.returncode == 0, done.stderr
    assert "level=warning" not in done.stderr, done.stderr
    made: Service = json.loads(done.stdout)
    return made


def services(read: Service) -> Iterator[tuple[str, Service]]:
    """Each service by its name."""
    yield from read["services"].items()


def test_the_edge_alone_can_be_reached(read: Service) -> None:
    """One published port; every network but that of the edge and that of webhooks leads nowhere."""
    assert {name for name, one in services(read) if one.get("ports")} == {"edge"}
    inner = {name for name, one in read["networks"].items() if one.get("internal")}
    assert inner == {"calls", "data", "events"}
    joined = {name: set(one.get("networks", {})) for name, one in services(read)}
    assert {name for name, nets in joined.items() if nets - inner} == {"edge", "notifications"}
    assert read["services"]["nats-volume"]["network_mode"] == "none"
    assert joined["edge"] == {"outside", "calls"}
    assert joined["notifications"] == {"calls", "data", "events", "webhooks"}


def test_what_speaks_to_whom_shares_a_network(read: Service) -> None:
    """The database is on the network of databases alone, the broker on that of events alone."""
    joined = {name: set(one.get("networks", {})) for name, one in services(read)}
    assert joined["postgres"] == {"data"}
    assert joined["nats"] == {"events"}
    for service in SERVICES:
        assert {"calls", "data", "events"} <= joined[service]
        assert joined[f"{service}-migration"] == {"data"}
    assert joined["checker"] == {"calls", "data"}
    assert joined["checker-grants"] == {"data"}


def test_every_container_is_bounded_and_cannot_change_itself(read: Service) -> None:
    """No capability, no new privilege, no writable root; memory and processes are limited."""
    for name, one in services(read):
        assert one["read_only"] is True, name
        assert one["cap_drop"] == ["ALL"], name
        assert one.get("cap_add", []) == (["CHOWN"] if name == "nats-volume" else []), name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        limits = one["deploy"]["resources"]["limits"]
        assert {"memory", "pids"} <= set(limits), name
        assert one["restart"] == ("no" if name in ONCE else "unless-stopped"), name


def test_what_serves_has_a_health_check(read: Service) -> None:
    """Of its own, or that of its image, which only those that run once do without."""
    for name, one in services(read):
        assert one.get("healthcheck", {}).get("disable", False) == (name in ONCE), name
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert 'CMD ["python", "-m", "meshkit.probe"]' in dockerfile
    assert 'CMD ["edge-health"]' in dockerfile


def test_images_have_their_ordinary_names(read: Service) -> None:
    """Official ones by tag, ours by version; each of ours is built once."""
    images = {one["image"] for _, one in services(read)}
    ours = {f"florin/{name}:0.1.0" for name in (*SERVICES, "checker", "operator", "edge")}
    assert images == {*ours, "postgres:18", "nats:2.15.0-alpine"}
    built = [one["image"] for _, one in services(read) if one.get("build")]
    assert sorted(built) == sorted(ours)


def test_every_file_that_is_mounted_is_made_by_the_command(read: Service, project: Path) -> None:
    """`florin deploy compose` makes what is named, and nothing that is mounted is missing."""
    for kind in ("secrets", "configs"):
        for name, one in read[kind].items():
            if Path(one["file"]).is_relative_to(project / "compose"):
                assert Path(one["file"]).is_file(), f"{kind} {name}: {one['file']}"
            else:
                kept = ROOT / Path(one["file"]).relative_to(project)
                assert kept.is_file(), f"{kind} {name} stands in the repository"
                assert kind == "configs"


def test_the_owner_of_a_schema_is_known_to_its_migration_alone(read: Service) -> None:
    """And to the database, which makes it, and to what gives the checker its rights."""
    for name, one in services(read):
        sources = {secret["source"] for secret in one.get("secrets", [])}
        owners = {source for source in sources if source.endswith("-database-owner")}
        wanted = {f"{name.removesuffix('-migration')}-database-owner"} if name.endswith("-migration") else set()
        if name == "checker-grants":
            wanted = {f"{service}-database-owner" for service in SERVICES}
        if name != "postgres":
            assert owners == wanted, name


def settings_of(read: Service, process: str, name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a process makes of the variables and files that its container has."""
    one = read["services"][name]
    for secret in one["secrets"]:
        place = root / secret["target"].strip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(Path(read["secrets"][secret["source"]]["file"]).read_bytes())
    settings_class = importlib.import_module(f"{process}.settings").Settings
    for variable, value in one["environment"].items():
        moved = value.replace("/etc/florin", f"{root}/etc/florin") if variable.endswith("_FILE") else value
        monkeypatch.setenv(variable, moved)
    told = {variable.removeprefix(f"{process.upper()}_").lower() for variable in one["environment"]}
    assert told <= set(settings_class.model_fields)
    return settings_class()


def test_the_checker_starts_with_what_it_is_told(
    read: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a role of its own in each database; as their owners only where it gives itself its rights."""
    for name in ("checker", "checker-grants"):
        made = settings_of(read, "checker", name, tmp_path / name, monkeypatch)
        for service in SERVICES:
            assert made.connection(service)["user"] == f"{service}_checker"
            owner = getattr(made, f"{service}_owner_database_url")
            assert (owner is not None) == (name == "checker-grants")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_starts_with_what_it_is_told(
    read: Service, service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own settings class takes the variables and the files, of the service and of its migration."""
    for name in (service, f"{service}-migration"):
        made = settings_of(read, service, name, tmp_path / name, monkeypatch)
        assert (made.owner_database_url is not None) == (name != service)
        assert "sslmode=verify-full" in made.database_url


def test_nats_takes_its_configuration(project: Path, tmp_path: Path) -> None:
    """With the users that the command wrote."""
    for name in ("nats", "users", "tls"):
        (tmp_path / name).mkdir()
    text = (
        (ROOT / "images" / "nats.conf")
        .read_text()
        .replace("/etc/florin", str(tmp_path))
        .replace("/data", f"{tmp_path}/data")
    )
    (tmp_path / "nats" / "nats.conf").write_text(text)
    (tmp_path / "users" / "authorization.conf").write_text((project / "compose" / "nats-users.conf").read_text())
    for target, source in (("tls.crt", "certs/nats/cert.pem"), ("tls.key", "certs/nats/key.pem"), ("ca.crt", "ca.pem")):
        (tmp_path / "tls" / target).write_bytes((project / "compose" / source).read_bytes())
    command = [str(binaries.find().nats), "-t", "--config", str(tmp_path / "nats" / "nats.conf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
