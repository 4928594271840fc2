"""The secrets of a deployment: made once, the same ever after, complete, and none that opens too much."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner

from local import certs, deployment
from local.cli import app
from local.state import SERVICES, MeshError


def made(folder: Path, *, production: bool = False, namespace: str = "bank") -> dict[str, dict[str, bytes]]:
    """Secret → key → value."""
    state = deployment.prepare(folder, namespace=namespace, hosts=["pay.example"])
    listed = json.loads(deployment.manifests(state, namespace, production=production))["items"]
    assert all(one["metadata"]["namespace"] == namespace for one in listed)
    return {
        one["metadata"]["name"]: {key: base64.b64decode(value) for key, value in one["data"].items()} for one in listed
    }


def test_a_folder_gives_the_same_secrets_again(tmp_path: Path) -> None:
    """A second run must not make keys that open nothing of what the databases hold."""
    assert made(tmp_path / "kept") == made(tmp_path / "kept")
    assert made(tmp_path / "kept") != made(tmp_path / "other")


def test_production_has_no_authority_and_no_issuer_of_ours(tmp_path: Path) -> None:
    """Whoever could sign certificates or tokens would be in everybody's name."""
    production = made(tmp_path / "kept", production=True)
    assert set(production) == {
        *(
            f"{service}-{kind}"
            for service in SERVICES
            for kind in ("database", "database-owner", "database-checker", "encryption")
        ),
        "accounts-sealing",
        "checker-sealing",
    }
    assert production.items() <= made(tmp_path / "kept").items()


def test_no_secret_holds_the_key_of_the_authority(tmp_path: Path) -> None:
    """It stays in the folder: in the cluster nobody can sign another identity."""
    key = (deployment.prepare(tmp_path / "kept", namespace="bank", hosts=[]).secrets / "ca-key.pem").read_bytes()
    values = [value for keys in made(tmp_path / "kept").values() for value in keys.values()]
    assert key not in values


def test_certificates_are_for_the_names_that_are_used(tmp_path: Path) -> None:
    """Those in the namespace, and the public ones; another namespace gets others, and the authority stays."""
    first = made(tmp_path / "kept")
    second = made(tmp_path / "kept", namespace="other")
    names = {}
    for secrets in (first, second):
        for identity in (*certs.IDENTITIES, "postgres"):
            certificate = x509.load_pem_x509_certificate(secrets[f"{identity}-tls"]["tls.crt"])
            held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert held.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://florin/{identity}"]
            names[identity] = held.get_values_for_type(x509.DNSName)
    assert {"edge", "edge.other.svc.cluster.local", "pay.example"} <= set(names["edge"])
    assert {"nats", "*.nats-pods.other.svc.cluster.local"} <= set(names["nats"])
    assert first["accounts-tls"] == second["accounts-tls"]
    assert first["nats-tls"]["tls.crt"] != second["nats-tls"]["tls.crt"]
    assert first["nats-tls"]["ca.crt"] == second["nats-tls"]["ca.crt"]


def test_a_lost_key_is_not_replaced(tmp_path: Path) -> None:
    """A new one would open nothing of what the databases hold."""
    state = deployment.prepare(tmp_path / "kept", namespace="bank", hosts=[])
    (state.secrets / "encryption-compliance").unlink()
    with pytest.raises(MeshError, match="nothing else opens the personal data of compliance"):
        deployment.prepare(tmp_path / "kept", namespace="bank", hosts=[])


def test_an_interrupted_first_run_is_begun_again(tmp_path: Path) -> None:
    """What it had made is kept, and the rest comes to it."""
    state = deployment.prepare(tmp_path / "kept", namespace="bank", hosts=[])
    kept = (state.secrets / "encryption-accounts").read_text()
    (state.root / "florin-deployment").unlink()
    (state.secrets / "encryption-compliance").unlink()
    again = made(tmp_path / "kept")
    assert again["accounts-encryption"]["keys"].decode() == kept
    assert again["compliance-encryption"]["keys"]


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    """Nothing is mixed with what somebody else put there."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(MeshError, match="holds other files"):
        deployment.prepare(tmp_path, namespace="bank", hosts=[])


def test_what_compose_mounts_can_be_read_in_a_container_and_by_nobody_here(tmp_path: Path) -> None:
    """The files are open, the folder around them is closed."""
    folder = tmp_path / "compose"
    done = CliRunner().invoke(app, ["deploy", "compose", "--folder", str(folder)])
    assert done.exit_code == 0, done.output
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    held = [path for path in folder.rglob("*") if path.is_file()]
    assert len(held) > 20
    assert {stat.S_IMODE(path.stat().st_mode) for path in held} == {0o644}


def test_the_command_prints_what_kubectl_takes(tmp_path: Path) -> None:
    """One List, on standard output, and a token of the same folder's issuer."""
    folder = str(tmp_path / "kept")
    done = CliRunner().invoke(app, ["deploy", "secrets", "--folder", folder, "--namespace", "bank"])
    assert json.loads(done.stdout)["kind"] == "List"
    token = CliRunner().invoke(app, ["deploy", "token", "--folder", folder, "--as", "operator", "--tenant", "demo"])
    assert token.stdout.count(".") == 2
