"""What the charts tell Envoy, NATS and PostgreSQL is taken by the real ones, and gives the rights that it has to."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from local import binaries, deployment, nats
from local.state import State
from meshkit import policy
from tests.support import parts as real
from tests.support.charts import ROOT, SERVICES, Objects, containers


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> State:
    """The secrets of a deployment."""
    return deployment.prepare(tmp_path_factory.mktemp("deployment") / "made", namespace="bank", hosts=["pay.example"])


def files(made: State, identity: str, folder: Path) -> Path:
    """A folder with an identity's certificate as its secret is mounted."""
    certificate, key = made.certificate(identity)
    folder.mkdir(parents=True)
    for name, path in (("tls.crt", certificate), ("tls.key", key), ("ca.crt", made.ca)):
        (folder / name).write_bytes(path.read_bytes())
    return folder


def test_envoy_takes_the_configuration_that_the_edge_is_given(objects: Objects, made: State, tmp_path: Path) -> None:
    """The init container's own arguments go to the generator, and what it writes to Envoy."""
    pod = objects.one("Deployment", "edge")["spec"]["template"]
    files(made, "edge", tmp_path / "tls")
    (tmp_path / "issuer").mkdir()
    (tmp_path / "issuer" / "jwks.json").write_bytes((made.root / "jwks.json").read_bytes())
    (tmp_path / "envoy").mkdir()
    arguments = [one.replace("/etc/florin", str(tmp_path)) for one in containers(pod)[0]["args"]]
    written = subprocess.run(
        [sys.executable, str(ROOT / "envoy" / "generate.py"), *arguments], capture_output=True, text=True, check=False
    )
    assert written.returncode == 0, written.stderr
    judged = subprocess.run(
        [str(binaries.find().envoy), "--mode", "validate", "-c", str(tmp_path / "envoy" / "envoy.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 0, judged.stderr
    written_for = json.loads((tmp_path / "envoy" / "envoy.json").read_text())
    clusters = {one["name"]: json.dumps(one) for one in written_for["static_resources"]["clusters"]}
    assert all(f"{service}.bank.svc.cluster.local" in clusters[service] for service in SERVICES)


def test_nats_takes_its_configuration(objects: Objects, made: State, tmp_path: Path) -> None:
    """With the users that the operator's image writes; on three nodes with their routes."""
    text = objects.one("ConfigMap", "nats")["data"]["nats.conf"].replace("/etc/florin", str(tmp_path))
    files(made, "nats", tmp_path / "tls")
    for name in ("nats", "users"):
        (tmp_path / name).mkdir()
    (tmp_path / "nats" / "nats.conf").write_text(text.replace('"/data"', f'"{tmp_path}/data"'))
    (tmp_path / "users" / "authorization.conf").write_text(deployment.broker_users())
    done = subprocess.run(
        [str(binaries.find().nats), "-t", "--config", str(tmp_path / "nats" / "nats.conf")],
        env={"POD_NAME": "nats-0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    nodes = objects.one("StatefulSet", "nats")["spec"]["replicas"]
    assert text.count("tls://nats-") == (nodes if nodes > 1 else 0)
    streams = objects.one("Job", "streams-*")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert f"--replicas={nodes}" in streams


def test_the_broker_lets_each_identity_do_what_its_policy_says() -> None:
    """The users of a deployment are those of a mesh on one machine, to the letter."""
    written = json.loads(deployment.broker_users().removeprefix("authorization: "))["users"]
    wanted = {f"spiffe://florin/{name}": nats.permissions(policy.load(name)) for name in SERVICES}
    assert {one["user"]: one.get("permissions") for one in written} == {**wanted, "spiffe://florin/operator": None}


def test_the_script_of_the_database_makes_the_roles_of_the_documents(
    evaluation: Objects, parts: real.Parts, made: State, tmp_path: Path
) -> None:
    """Run by the real psql: owners own, runtime roles may connect and no more, nobody else comes in."""
    text = evaluation.one("ConfigMap", "postgres")["data"]["databases.sh"]
    passwords = tmp_path / "passwords"
    passwords.mkdir()
    script = text.replace("/etc/florin/passwords", str(passwords))
    for service in SERVICES:
        # The server of the session has databases of other tests; these get names of their own.
        script = re.sub(rf"\b{service}\b", f"chart_{service}", script)
        for role in ("owner", "runtime", "checker"):
            secret = made.secrets / f"postgres-{service}_{role}"
            (passwords / f"chart_{service}_{role}").write_text(secret.read_text() + "\n")
    (tmp_path / "databases.sh").write_text(script)
    found = binaries.find()
    admin = parts.postgres
    done = subprocess.run(
        ["bash", "-e", str(tmp_path / "databases.sh")],
        env={
            "PATH": f"{found.postgres_bin}:/usr/bin:/bin",
            "PGHOST": str(admin.socket),
            "PGPORT": psycopg.conninfo.conninfo_to_dict(admin.admin_dsn("postgres"))["port"],
            "PGPASSWORD": str(psycopg.conninfo.conninfo_to_dict(admin.admin_dsn("postgres"))["password"]),
            "POSTGRES_USER": str(psycopg.conninfo.conninfo_to_dict(admin.admin_dsn("postgres"))["user"]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with psycopg.connect(admin.admin_dsn("postgres")) as connection:
        rows = connection.execute(
            "SELECT rolname, rolsuper, rolbypassrls, rolcreatedb, rolcreaterole FROM pg_roles"
            " WHERE rolname LIKE 'chart\\_%' ORDER BY rolname"
        ).fetchall()
        assert [row[0] for row in rows] == sorted(
            f"chart_{one}_{role}" for one in SERVICES for role in ("owner", "runtime", "checker")
        )
        assert all(row[1:] == (False, False, False, False) for row in rows)
        for service in SERVICES:
            may = connection.execute(
                "SELECT has_database_privilege(%s, %s, 'CONNECT'), has_database_privilege(%s, %s, 'CONNECT')",
                (f"chart_{service}_runtime", f"chart_{service}", "chart_compliance_owner", "chart_accounts"),
            ).fetchone()
            assert may == (True, False)
            reads = connection.execute(
                "SELECT has_database_privilege(%s, %s, 'CONNECT'),"
                " has_database_privilege(%s, 'chart_accounts', 'CREATE')",
                (f"chart_{service}_checker", f"chart_{service}", f"chart_{service}_checker"),
            ).fetchone()
            assert reads == (True, False)
    password = (made.secrets / "postgres-accounts_runtime").read_text()
    dsn = psycopg.conninfo.make_conninfo(
        admin.admin_dsn("chart_accounts"), user="chart_accounts_runtime", password=password
    )
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("chart_accounts_runtime",)


def test_a_test_of_the_release_pays_by_the_command_that_is_tried_elsewhere(objects: Objects) -> None:
    """`helm test` runs `florin deploy payment` (tests/e2e/test_deploy.py), with the options that it has."""
    arguments = objects.one("Pod", "payment-check")["spec"]["containers"][0]["args"]
    assert arguments[:2] == ["deploy", "payment"]
    done = subprocess.run(
        [sys.executable, "-m", "local", "deploy", "payment", "--help"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    for argument in arguments[2:]:
        assert argument.partition("=")[0] in done.stdout
