"""`florin demo`: which story is told, on which mesh."""

from __future__ import annotations

from typing import Annotated

import typer

from local.options import StateOption
from local.state import MeshError


def demo(
    scenario: Annotated[str, typer.Option(help="payroll or treasury.")] = "payroll",
    state: StateOption = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the mesh and its folder for a look.")] = False,
) -> None:
    """Tell a story through a fresh mesh, and judge how it came out.

    payroll pays a file with all that can go wrong in it (with --state through a running mesh); treasury lets a month
    pass in a sandbox: foreign exchange, a standing order, a hold, reversals, a statement, an export.
    """
    if scenario == "treasury":
        from local.treasury import demo as story

        raise typer.Exit(story.run(state, keep=keep))
    if scenario != "payroll":
        raise MeshError(f"--scenario {scenario}: write payroll or treasury.")
    from local import demo as job

    raise typer.Exit(job.run(state, keep=keep))
