"""`florin ledger`: whether money can move in a tenant's ledger, and the end of a freeze; its archive of old periods."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from local.options import StateOption, TenantOption, mesh_state
from local.state import MeshError, State

app = typer.Typer(no_args_is_help=True, help="Frozen ledgers, and how a freeze ends; the archive of old periods.")

PeriodArgument = Annotated[int, typer.Argument(min=1, max=9999, help="The period, a year.")]

_FINDINGS_SHOWN = 20


@app.command()
def status(
    tenant: TenantOption = "demo",
    state: StateOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what is frozen, and the findings that it is for; exit 1 while anything is."""
    from local import rest

    found = rest.call(mesh_state(state), "GET", "/v1/ledgerState", tenant=tenant)
    freezes = found.get("ledgerFreezes", [])
    for freeze in freezes:
        page = urlencode({"pageSize": _FINDINGS_SHOWN})
        listed = rest.call(mesh_state(state), "GET", f"/v1/{freeze['name']}/findings?{page}", tenant=tenant)
        freeze["findings"] = listed.get("ledgerFindings", [])
    typer.echo(json.dumps(found, indent=2) if as_json else table(tenant, freezes))
    if freezes:
        raise typer.Exit(1)


@app.command(epilog='Example:  florin ledger unfreeze ledgerFreezes/… --note "balance restored from the entries"')
def unfreeze(
    freeze: Annotated[str, typer.Argument(help="The freeze, as `florin ledger status` names it.")],
    note: Annotated[str, typer.Option(help="What was found out and done; it is audited. No personal data.")],
    accept: Annotated[
        bool, typer.Option("--accept", help="What was found stays so, and is to freeze nothing any more.")
    ] = False,
    tenant: TenantOption = "demo",
    state: StateOption = None,
) -> None:
    """End a freeze as it is now; payments that waited go on."""
    from local import rest

    folder = mesh_state(state)
    name = f"ledgerFreezes/{freeze.removeprefix('ledgerFreezes/')}"
    present = rest.call(folder, "GET", f"/v1/{name}", tenant=tenant)["ledgerFreeze"]
    body = {
        "note": note,
        "acceptFindings": accept,
        "etag": present["etag"],
        "requestId": f"florin-ledger-unfreeze-{uuid.uuid4()}",
    }
    rest.call(folder, "POST", f"/v1/{name}:unfreeze", body, tenant=tenant)
    typer.echo(f"{name} is ended")


@app.command(epilog="Example:  florin ledger archive --before 2026-01-01")
def archive(
    before: Annotated[
        str, typer.Option(help="What was recorded before it is moved: a date (UTC), or an ISO 8601 time.")
    ],
    tenant: Annotated[str | None, typer.Option(help="This tenant alone; all if absent.")] = None,
    share: Annotated[float, typer.Option(min=0.01, max=1, help="Of the time that is used.")] = 0.5,
    state: StateOption = None,
) -> None:
    """Move old journals out of the ledger's tables, beside payments; every read finds them as before."""
    options = ["--before", before, "--share", str(share), *(["--tenant", tenant] if tenant else [])]
    typer.echo(_run(mesh_state(state), *options))


@app.command(epilog="Example:  florin ledger detach 2024")
def detach(period: PeriodArgument, state: StateOption = None) -> None:
    """Take a period's tables off the archive; they stay in the database, to be dumped, moved or dropped."""
    typer.echo(_run(mesh_state(state), "detach", str(period)))


@app.command(epilog="Example:  florin ledger attach 2024")
def attach(period: PeriodArgument, state: StateOption = None) -> None:
    """Bring a period's tables back into the archive."""
    typer.echo(_run(mesh_state(state), "attach", str(period)))


def _run(state: State, *arguments: str) -> str:
    """Has accounts do it, in a process of its own beside the replicas. Raises MeshError with what it says."""
    from local import binaries
    from local.postgres import Postgres
    from local.services import Replica, Surroundings

    description = state.read_description()
    ports, is_sandbox = description["ports"], bool(description.get("sandbox"))
    postgres = Postgres(state, binaries.find())
    role = postgres.create_archiver("accounts")
    around = Surroundings(state, postgres, [], ports["nats"], ports["jwks"], {}, sandbox=is_sandbox)
    environment = {
        **os.environ,
        **around.environment(Replica("accounts", 1, 0, 0)),
        "ACCOUNTS_ARCHIVER_DATABASE_URL": postgres.address("accounts", role),
        "ACCOUNTS_ARCHIVER_DATABASE_PASSWORD_FILE": str(postgres.password_file(role)),
    }
    command = [sys.executable, "-P", "-m", "accounts", "archive", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MeshError((done.stderr.strip().splitlines() or [f"accounts ended with {done.returncode}"])[-1])
    return done.stdout.strip().splitlines()[-1]


def table(tenant: str, freezes: list[dict[str, Any]]) -> str:
    """What is frozen, for people."""
    from checker.texts import printable

    if not freezes:
        return f"nothing is frozen in the ledger of tenants/{tenant}"
    lines = []
    for freeze in freezes:
        what = freeze.get("currencyCode") or "all currencies"
        lines.append(f"{freeze['name']}  {what}  since {freeze['createTime']}  {freeze['findingCount']} findings")
        lines += [f"  {one['invariant']}  {one['object']}: {one['sentence']}" for one in freeze["findings"]]
        more = freeze["findingCount"] - len(freeze["findings"])
        if more > 0:
            lines.append(f"  and {more} more")
    return "\n".join(printable(line) for line in lines)
