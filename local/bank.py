"""`florin bank`: a counterparty to try withdrawals and deposits with, at the folder of a mesh's rail."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from local.state import MeshError, default_root, find_state

app = typer.Typer(help="Another bank, to try withdrawals and deposits with.", no_args_is_help=True)

StateOption = Annotated[Path | None, typer.Option("--state", help="Folder of the mesh, as for `florin up`.")]
TenantOption = Annotated[str, typer.Option("--tenant", help="The tenant to act in.")]
_POLL_SECONDS = 0.3


def _folder(state: Path | None, tenant: str) -> Path:
    return find_state(state if state is not None else default_root()).rail / tenant


@app.command("run")
def run(
    state: StateOption = None,
    tenant: TenantOption = "demo",
    once: Annotated[bool, typer.Option("--once", help="Answer what is there, and end.")] = False,
) -> None:
    """Answer withdrawals until Ctrl-C: amounts that end in 13 are rejected, in 17 never answered, all others paid."""
    from local import counterparty

    folder = _folder(state, tenant)
    while True:
        done = counterparty.answers(folder)
        if done or once:
            typer.echo(f"{done} messages answered")
        if once:
            return
        time.sleep(_POLL_SECONDS)


@app.command("pay", epilog='Example:  florin bank pay AT611904300234573201 12.50 --remittance "Invoice 7"')
def pay(
    iban: Annotated[str, typer.Argument(help="The IBAN of an account of the mesh.")],
    amount: Annotated[str, typer.Argument(help="Amount, for example 12.50.")],
    currency: Annotated[str, typer.Option(help="ISO 4217 code.")] = "EUR",
    name: Annotated[str, typer.Option(help="Who pays.")] = "Bank Example",
    remittance: Annotated[str, typer.Option(help="What for.")] = "",
    reference: Annotated[str | None, typer.Option(help="The entry's reference; a new one if absent.")] = None,
    state: StateOption = None,
    tenant: TenantOption = "demo",
) -> None:
    """Send money to an account of the mesh."""
    from local import counterparty

    credit = counterparty.Credit(iban, amount, currency, name, "DE89370400440532013000", remittance)
    try:
        sent = counterparty.pay(_folder(state, tenant), credit, reference)
    except counterparty.BadCredit as error:
        raise MeshError(str(error)) from None
    typer.echo(f"sent under the reference {sent}")
