"""`florin reconcile`: a bank's statement taken, and what is open after it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from local.options import StateOption, TenantOption, mesh_state
from local.state import MeshError, State

app = typer.Typer(help="What a settlement bank says, beside the ledger.", no_args_is_help=True)

AccountOption = Annotated[
    str, typer.Option("--account", help="The settlement account, for example accounts/nostro-eur.")
]
_CHUNK_BYTES = 512 * 1024
_PATIENCE_SECONDS = 60.0


@app.command("import", epilog="Example:  florin reconcile import statement.xml --account accounts/nostro-eur")
def import_statement(
    file: Annotated[Path, typer.Argument(help="A statement of the bank, camt.053.")],
    account: AccountOption,
    tenant: TenantOption = "demo",
    state: StateOption = None,
) -> None:
    """Take a statement, wait for the rules, and show what explains the difference."""
    if not file.is_file():
        raise MeshError(f"{file} does not exist.")
    folder, name = mesh_state(state), _account(account)
    answer = asyncio.run(_send(folder, file, name, tenant))
    again = " (it was there already)" if answer.already_imported else ""
    statement = answer.bank_statement
    typer.echo(f"{statement.name} number {statement.number}: {statement.entry_count} entries{again}")
    typer.echo(_summary(_matched(folder, name, tenant)))


@app.command("open", epilog="Example:  florin reconcile open --account accounts/nostro-eur --age-days 3")
def open_items(
    account: AccountOption,
    age_days: Annotated[int, typer.Option(min=0, max=36500, help="Only what is this old, or older.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    tenant: TenantOption = "demo",
    state: StateOption = None,
) -> None:
    """List what has no counterpart on the other side."""
    items = list(_pages(mesh_state(state), _account(account), age_days, tenant))
    if as_json:
        typer.echo(json.dumps(items, indent=2))
        return
    for item in items:
        typer.echo(_line(item))
    typer.echo(f"{len(items)} open items")


def _account(name: str) -> str:
    return name if name.startswith("accounts/") else f"accounts/{name}"


async def _send(state: State, file: Path, account: str, tenant: str) -> Any:
    from florin.accounts.v1 import reconciliation_service_pb2 as pb
    from local import client

    def requests() -> Iterator[pb.ImportBankStatementRequest]:
        yield pb.ImportBankStatementRequest(header=pb.ImportBankStatementRequest.Header(account=account))
        with file.open("rb") as handle:
            while chunk := handle.read(_CHUNK_BYTES):
                yield pb.ImportBankStatementRequest(chunk=chunk)

    description = state.read_description()
    async with client.connect(state, f"localhost:{description['port']}") as edge:
        session = edge.session("operator", tenant=tenant)
        try:
            return await session.send_stream(session.reconciliation.ImportBankStatement, requests, seconds=120)
        except client.Refused as refused:
            raise MeshError(f"The statement was not imported: {refused}") from None


def _matched(state: State, account: str, tenant: str) -> dict[str, Any]:
    """The summary once the rules went over everything, or as it is when patience is over."""
    from local import rest

    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        found: dict[str, Any] = rest.call(state, "GET", f"/v1/{account}/reconciliation", tenant=tenant)[
            "reconciliation"
        ]
        if not found.get("matching", False) or time.monotonic() >= deadline:
            return found
        time.sleep(0.2)


def _summary(found: dict[str, Any]) -> str:
    counts = {name: int(found[name].get("count", 0)) for name in ("openBank", "openLedger", "resolved")}
    waiting = " (the rules are still at work)" if found.get("matching", False) else ""
    return (
        f"the bank has {_money(found['bankBalance'])}, the ledger {_money(found['ledgerBalance'])}, together"
        f" {_money(found['difference'])}: {_money(found['openingDifference'])} from the beginning,"
        f" {_money(found['openBank']['amount'])} in {counts['openBank']} open items of the bank,"
        f" {_money(found['openLedger']['amount'])} in {counts['openLedger']} of ours,"
        f" {_money(found['resolved']['amount'])} in {counts['resolved']} resolved{waiting}"
    )


def _pages(state: State, account: str, age_days: int, tenant: str) -> Iterator[dict[str, Any]]:
    from local import rest

    token = ""
    while True:
        path = f"/v1/{account}/openItems?pageSize=1000&ageDaysMin={age_days}&pageToken={quote(token)}"
        page = rest.call(state, "GET", path, tenant=tenant)
        yield from page.get("items", [])
        token = page.get("nextPageToken", "")
        if not token:
            return


def _line(item: dict[str, Any]) -> str:
    from checker.texts import printable

    told = [
        *(item["name"], item["valueDate"], f"{item.get('ageDays', 0)} days", _money(item["amount"])),
        *(",".join(item.get("references", [])[:3]), item.get("description", "")),
        "proposed" if item["state"].endswith("PROPOSED") else "",
        "duplicate?" if item.get("duplicate", False) else "",
    ]
    return printable("  ".join(text for text in told if text))


def _money(amount: dict[str, Any]) -> str:
    from meshkit.money import format_minor

    code = amount["currencyCode"]
    return f"{format_minor(int(amount.get('minorUnits', 0)), code)} {code}"
