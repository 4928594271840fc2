"""`florin deploy`: what a deployment in containers needs beside the services, made or done by one command each."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from local.canary_cli import canary

deploy = typer.Typer(help="What a deployment in containers needs beside the services.", no_args_is_help=True)
deploy.add_typer(canary, name="canary")


class Purpose(StrEnum):
    """What secrets are for."""

    EVALUATION = "evaluation"
    PRODUCTION = "production"


FolderOption = Annotated[
    Path, typer.Option("--folder", help="Where the secrets are kept; the same folder gives the same ones again.")
]


@deploy.command("secrets")
def secrets(
    folder: FolderOption,
    purpose: Annotated[
        Purpose,
        typer.Option("--for", help="evaluation: all, with an authority and an issuer; production: passwords and keys."),
    ] = Purpose.EVALUATION,
    namespace: Annotated[str, typer.Option(help="The Kubernetes namespace.")] = "florin",
    host: Annotated[list[str] | None, typer.Option(help="A public name of the edge; repeat for more.")] = None,
) -> None:
    """Print Kubernetes Secrets, for `kubectl apply -f -`; what they hold is made at the first time."""
    from local import deployment

    made = deployment.prepare(folder, namespace=namespace, hosts=host or [])
    typer.echo(deployment.manifests(made, namespace, production=purpose is Purpose.PRODUCTION))


@deploy.command("token")
def token(
    folder: FolderOption,
    role: Annotated[str, typer.Option("--as", help="customer, teller, compliance, auditor or operator.")],
    customer: Annotated[str | None, typer.Option(help="The customer, for --as customer.")] = None,
    tenant: Annotated[str, typer.Option(help="The tenant.")] = "demo",
) -> None:
    """Print a token of the development issuer whose key is in the folder."""
    from local import issuer
    from local.state import State

    typer.echo(issuer.mint(State(folder.expanduser()), role, tenant=tenant, customer=customer))


@deploy.command("compose")
def compose(
    folder: FolderOption = Path("compose"),
    host: Annotated[list[str] | None, typer.Option(help="A public name of the edge; repeat for more.")] = None,
) -> None:
    """Write what compose.yaml mounts: secrets, which stay, and what the broker lets each service do, anew."""
    from local import deployment

    made = deployment.prepare(folder, namespace="florin", hosts=host or [])
    (made.root / "nats-users.conf").write_text(deployment.broker_users())
    deployment.open_to_containers(made)
    typer.echo(f"{made.root}: keep it, and keep it to yourself; what the databases hold is lost without it.")


@deploy.command("broker")
def broker(output: Annotated[Path, typer.Option(help="Where to write it.")]) -> None:
    """Write who may do what on the broker, from the policies, to be included by its configuration."""
    from local import deployment

    output.write_text(deployment.broker_users())


@deploy.command("streams")
def streams(
    url: Annotated[str, typer.Option(help="tls://HOST:PORT of the broker.")],
    ca: Annotated[Path, typer.Option(help="The authority of all identities.")],
    cert: Annotated[Path, typer.Option(help="The operator's certificate.")],
    key: Annotated[Path, typer.Option(help="Its key.")],
    replicas: Annotated[int, typer.Option(min=1, max=5, help="Nodes that keep each stream.")] = 1,
    seconds: Annotated[int, typer.Option(min=1, help="How long the broker is waited for.")] = 120,
) -> None:
    """Declare the streams and consumers of the policies; safe to repeat."""
    import asyncio

    from local import deployment

    asyncio.run(deployment.declare_streams(url, ca=ca, certificate=(cert, key), replicas=replicas, seconds=seconds))
    typer.echo("the streams and consumers are declared")


@deploy.command("payment")
def payment(
    edge: Annotated[str, typer.Option(help="HOST:PORT of the edge.")],
    ca: Annotated[Path, typer.Option(help="What the edge's certificate is signed by.")],
    issuer_folder: Annotated[
        Path | None, typer.Option(help="Folder of a development issuer's key; either this or --tokens.")
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(help="Folder with a token in each of the files teller, compliance and operator.")
    ] = None,
    tenant: Annotated[str, typer.Option(help="Where to pay, with a development issuer.")] = "deploy-check",
    server_name: Annotated[str, typer.Option(help="The name in the edge's certificate; the host if empty.")] = "",
) -> None:
    """Make one payment through the edge, from nothing: a customer, two accounts, money, a transfer, its balances."""
    import asyncio

    from local import deploy_payment

    who = deploy_payment.tokens(issuer_folder, tokens, tenant)
    for line in asyncio.run(deploy_payment.pay(edge, ca.read_bytes(), who, server_name=server_name)):
        typer.echo(line)
