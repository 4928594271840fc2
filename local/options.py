"""Options that many subcommands of `florin` take alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from local.state import State, default_root, find_state

StateOption = Annotated[
    Path | None,
    typer.Option("--state", help="Folder of the mesh. Default: $FLORIN_STATE, or the usual place of your system."),
]
TenantOption = Annotated[str, typer.Option("--tenant", help="The tenant to act in.")]


def mesh_state(path: Path | None) -> State:
    """The folder of a mesh that was started before, the usual one if none is given. Raises MeshError."""
    return find_state(path if path is not None else default_root())
