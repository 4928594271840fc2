"""Secrets of a running mesh stand in their files and nowhere else."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from florin.accounts.v1 import account_service_pb2
from tests.support.mesh import Mesh
from tests.support.protocols import refused


def secrets_of(mesh: Mesh) -> dict[str, str]:
    """What must not be seen, by the file that it stands in: passwords, keys, and what the keys are made of."""
    found = {}
    for path in mesh.state.secrets.iterdir():
        text = path.read_text().strip()
        if path.name == "issuer-key.json":
            text = json.loads(text)["d"]
        elif "BEGIN" in text:
            text = text.splitlines()[1]
        found[path.name] = text
    for path in (mesh.state.root / "certs").glob("*/key.pem"):
        found[f"{path.parent.name}/key.pem"] = path.read_text().splitlines()[1]
    return found


def places(mesh: Mesh) -> dict[str, str]:
    """Where a secret could have got to: logs, configurations, arguments, environments."""
    root = mesh.state.root
    files = [*mesh.state.logs.iterdir(), root / "nats.conf", root / "jwks.json", root / "mesh.json"]
    files += (root / "envoy").iterdir()
    found = {str(path): path.read_text(errors="replace") for path in files}
    for name, pid in {**mesh.description["processes"], "supervisor": mesh.supervisor.pid}.items():
        for what in ("cmdline", "environ"):
            found[f"{what} of {name}"] = Path(f"/proc/{pid}/{what}").read_text(errors="replace")
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="arguments and environments are read from /proc")
def test_no_secret_is_in_a_log_a_configuration_an_argument_or_an_environment(mesh: Mesh) -> None:
    """After calls that succeed, that are refused, and of the command: neither a key nor a password nor a token."""
    token = mesh.token("operator", subject="secretive")
    assert mesh.http("GET", "/v1/limits", token=token).status == 200
    assert mesh.http("GET", "/v1/limits", token=token + "x").status == 401
    missing = account_service_pb2.GetAccountRequest(name="accounts/none")
    assert refused(lambda: mesh.call("AccountService.GetAccount", missing)).reason == "ACCOUNT_NOT_FOUND"
    assert mesh.florin("limits", "get").returncode == 0
    secrets = {**secrets_of(mesh), "token": token, "its signature": token.rsplit(".", 1)[1]}
    assert len(secrets) > 20
    assert all(len(secret) > 20 for secret in secrets.values())
    where = places(mesh)
    assert len(where) > 20
    assert [(name, place) for name, secret in secrets.items() for place, text in where.items() if secret in text] == []


def test_secrets_are_their_owners_alone(mesh: Mesh) -> None:
    """Files and the folders above them, whatever the umask of whoever started the mesh."""
    for path in [*mesh.state.secrets.iterdir(), *(mesh.state.root / "certs").glob("*/*.pem")]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for folder in (mesh.state.secrets, mesh.state.root / "certs", mesh.state.logs, mesh.state.root / "nats"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
