"""`florin clock`: the time of a sandbox, shown and moved forward."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from local.options import StateOption, mesh_state
from local.state import MeshError

app = typer.Typer(help="The time of a sandbox (florin up --sandbox): shown, and moved forward.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command()
def show(state: StateOption = None, as_json: JsonOption = False) -> None:
    """Show what time it is in a sandbox, and whether all replicas go by it."""
    from local import sandbox

    shown = sandbox.show(mesh_state(state))
    typer.echo(json.dumps(sandbox.as_json(shown), indent=2) if as_json else sandbox.as_text(shown))


@app.command(epilog="Examples:  florin clock advance 31d    florin clock advance --to 2027-01-31T09:00Z")
def advance(
    duration: Annotated[str | None, typer.Argument(help="How far: 90m, 12h, 31d, 1d12h.")] = None,
    to: Annotated[str | None, typer.Option(help="To this moment (ISO 8601, with its time zone), instead.")] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move the time of a sandbox forward, for good; ends when all replicas go by it."""
    from local import sandbox

    if (duration is None) == (to is None):
        raise MeshError("Say how far, like 31d, or --to which moment; one of them.")
    shown = sandbox.advance(
        mesh_state(state),
        by=sandbox.duration(duration) if duration is not None else None,
        to=sandbox.moment_of(to) if to is not None else None,
    )
    typer.echo(json.dumps(sandbox.as_json(shown), indent=2) if as_json else sandbox.as_text(shown))
