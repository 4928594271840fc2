"""`florin deploy canary`: a version of one service on trial, given its share of the calls, taken over or taken back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

canary = typer.Typer(help="A version of one service on trial, with a share of the calls.", no_args_is_help=True)

ServiceArgument = Annotated[str, typer.Argument(help="accounts, transactions, compliance or notifications.")]
NamespaceOption = Annotated[str, typer.Option("--namespace", "-n", help="Where Florin is installed.")]
ChartsOption = Annotated[Path, typer.Option(help="The folder with the charts.")]


@canary.command("start")
def start(
    service: ServiceArgument,
    tag: Annotated[str, typer.Option(help="The tag of the image to try.")],
    percent: Annotated[int, typer.Option(min=1, max=99, help="Calls through the edge that it gets.")] = 10,
    namespace: NamespaceOption = "florin",
    charts: ChartsOption = Path("charts"),
) -> None:
    """Start a pod of another version and give it its share of the calls."""
    from local.canary import Canary

    Canary(service, namespace, charts).start(tag, percent)
    typer.echo(f"{service} {tag} gets {percent} % of the calls through the edge")


@canary.command("promote")
def promote(
    service: ServiceArgument, namespace: NamespaceOption = "florin", charts: ChartsOption = Path("charts")
) -> None:
    """Give the service the version on trial, for all calls."""
    from local.canary import Canary

    typer.echo(f"{service} is {Canary(service, namespace, charts).promote()}")


@canary.command("back")
def back(
    service: ServiceArgument, namespace: NamespaceOption = "florin", charts: ChartsOption = Path("charts")
) -> None:
    """Take the version on trial away; the calls go to the one that ran before."""
    from local.canary import Canary

    Canary(service, namespace, charts).end()
    typer.echo(f"{service} is what it was")
