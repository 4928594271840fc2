"""`florin ledger`: whether money can move in a tenant's ledger, why not, and the end of a freeze."""

from __future__ import annotations

import json
import uuid
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from local.options import StateOption, TenantOption, mesh_state

app = typer.Typer(no_args_is_help=True, help="Frozen ledgers: what the checker found, and how a freeze ends.")

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
