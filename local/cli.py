"""The `florin` command: one thin function a subcommand; everything heavy is imported where it is used."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from local import bank, clock_command, demo_command, deploy_cli, ledger, reconcile_cli
from local.options import StateOption, TenantOption, mesh_state
from local.state import SERVICES, MeshError, State, default_root, open_state

app = typer.Typer(
    help="Florin, a core-banking mesh: bring it up on this machine, look at it, work with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
tenants = typer.Typer(help="Banks or brands on the mesh.", no_args_is_help=True)
watchlist = typer.Typer(help="Lists of names that payments and customers are matched with.", no_args_is_help=True)
rules = typer.Typer(help="Conditions that decline a payment or have it reviewed.", no_args_is_help=True)
limits = typer.Typer(help="The most that may be paid, per payment and per day.", no_args_is_help=True)
events = typer.Typer(help="Events told again, and those that a consumer gave up.", no_args_is_help=True)
export = typer.Typer(help="Copies of what an auditor keeps.", no_args_is_help=True)
_GROUPS = {"tenants": tenants, "watchlist": watchlist, "rules": rules, "limits": limits, "events": events}
_MORE = {"export": export, "clock": clock_command.app, "bank": bank.app, "deploy": deploy_cli.deploy}
_MORE |= {"reconcile": reconcile_cli.app, "ledger": ledger.app}
for _name, _group in {**_GROUPS, **_MORE}.items():
    app.add_typer(_group, name=_name)


def _scale(values: list[str]) -> dict[str, int]:
    scale: dict[str, int] = {}
    for value in values:
        service, _, count = value.partition("=")
        if service not in SERVICES or not count.isdigit() or not 1 <= int(count) <= 16:
            raise MeshError(f"--scale {value}: write SERVICE=1 to SERVICE=16, SERVICE one of {', '.join(SERVICES)}.")
        scale[service] = int(count)
    return scale


@app.command(epilog="Examples:  florin up --scale transactions=2    florin up --detach --port 9443 --state /tmp/second")
def up(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the edge; 0 picks a free one.")] = 8443,
    scale: Annotated[list[str] | None, typer.Option(help="Replicas of a service, for example transactions=2.")] = None,
    state: StateOption = None,
    detach: Annotated[bool, typer.Option("--detach", help="Give the terminal back once all is ready.")] = False,
    otlp: Annotated[str | None, typer.Option(help="host:port that traces are sent to (OTLP over gRPC).")] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Origin whose web pages may call, for example http://localhost:3000.")
    ] = None,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Its time can be moved: `florin clock`.")] = False,
) -> None:
    """Bring the whole mesh up, until Ctrl-C."""
    from local import live, mesh

    if otlp is not None and not re.fullmatch(r"[^:\s]+:\d{1,5}", otlp):
        raise MeshError(f"--otlp {otlp}: write host:port.")
    for origin in cors_origin or ():
        if not re.fullmatch(r"https?://[a-z0-9.-]+(:\d{1,5})?", origin):
            raise MeshError(f"--cors-origin {origin}: write scheme://host or scheme://host:port, in lower case.")
    origins = tuple(cors_origin or ())
    wishes = mesh.Wishes(port=port, scale=_scale(scale or []), otlp=otlp, cors_origins=origins, sandbox=sandbox)
    folder = open_state(state if state is not None else default_root())
    if detach:
        typer.echo(live.detach(folder, wishes))
        return
    live.run(folder, wishes)


@app.command()
def down(state: StateOption = None) -> None:
    """Stop the mesh of a state folder; its data stays."""
    from local import mesh

    folder = mesh_state(state)
    typer.echo("stopped" if mesh.end(folder) else f"no mesh runs in {folder.root}")


@app.command()
def status(
    state: StateOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show every process of the mesh and whether it takes work."""
    from local import live

    found = live.status(mesh_state(state))
    typer.echo(json.dumps(found, indent=2) if as_json else live.table(found))
    if not all(process["ready"] for process in found["processes"].values()):
        raise typer.Exit(1)


@app.command()
def logs(
    service: Annotated[
        str | None, typer.Argument(help="A process: accounts, envoy, postgres …; all if absent.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    state: StateOption = None,
) -> None:
    """Show the logs of the mesh."""
    from local import live

    live.show_logs(mesh_state(state), service, follow=follow)


@app.command(epilog='Example:  grpcurl -cacert $(florin ca) -H "authorization: Bearer $(florin token --as teller)" …')
def token(
    role: Annotated[str, typer.Option("--as", help="customer, teller, compliance, auditor, operator or bookkeeper.")],
    customer: Annotated[str | None, typer.Option(help="The customer of a customer's token.")] = None,
    tenant: TenantOption = "demo",
    subject: Annotated[str | None, typer.Option(help="Who it is (sub); the role's name if absent.")] = None,
    lifetime: Annotated[int, typer.Option(help="Seconds until it expires; 3600 at most.")] = 1800,
    state: StateOption = None,
) -> None:
    """Print a token of the development issuer."""
    from local import issuer

    minted = issuer.mint(
        mesh_state(state), role, tenant=tenant, subject=subject, customer=customer, lifetime_seconds=lifetime
    )
    typer.echo(minted)


@app.command()
def ca(state: StateOption = None) -> None:
    """Print the file of the certificate that clients trust."""
    typer.echo(str(mesh_state(state).ca))


@app.command(epilog="Example:  florin verify --offline journals.jsonl --public-key sealing-public.pem")
def verify(
    state: StateOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    offline: Annotated[
        Path | None, typer.Option(help="Check an export's file (INV-9) instead: no server is asked.")
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="Keys in PEM that tree heads are believed by; the mesh's own if absent.")
    ] = None,
) -> None:
    """Check the invariants INV-1 to INV-9 on a running mesh; exit 1 when one does not hold.

    Where ACCOUNTS_OWNER_DATABASE_URL and the others are set, it checks the databases that they name instead.
    """
    from local import verify as checks

    if offline is not None:
        from local import verify_export

        if public_key is None:
            raise MeshError("--offline needs --public-key: an export must not be believed by a key of its own.")
        findings = [verify_export.verify(offline, public_key)]
    elif urls := checks.given_databases(os.environ):
        known = checks.known_key(State(state if state is not None else default_root()), os.environ)
        findings = checks.verify_databases(urls, public_key or known)
    else:
        findings = checks.verify(mesh_state(state), public_key)
    typer.echo(json.dumps(checks.as_json(findings), indent=2) if as_json else checks.as_text(findings))
    if any(finding.violations for finding in findings):
        raise typer.Exit(1)


@export.command("journals")
def export_journals(
    file: Annotated[Path, typer.Argument(help="A new file, or one that was begun: it is gone on with.")],
    tenant: TenantOption = "demo",
    state: StateOption = None,
) -> None:
    """Write a tenant's sealed journals with their signed heads into a file that verifies without a server."""
    from local import export as work

    done = work.journals(mesh_state(state), file, tenant)
    typer.echo(f"{done.added} journals added to {file}; signed up to {done.tree_size}")


app.command()(demo_command.demo)


@tenants.command("create")
def tenants_create(
    tenant: Annotated[str, typer.Argument(help="A short lower-case word.")],
    time_zone: Annotated[str, typer.Option(help="IANA name; its days begin there.")] = "UTC",
    state: StateOption = None,
) -> None:
    """Make a tenant."""
    from local import rest

    made = rest.ensure_tenant(mesh_state(state), tenant, time_zone=time_zone)
    typer.echo(f"tenants/{tenant} {'made' if made else 'exists already'}")


@watchlist.command("import")
def watchlist_import(
    folder: Annotated[Path, typer.Argument(help="SDN.CSV, or the folder with SDN.CSV, ALT.CSV and ADD.CSV.")],
    name: Annotated[str, typer.Option(help="The list's id.")] = "sdn",
    tenant: TenantOption = "demo",
    state: StateOption = None,
) -> None:
    """Replace a watchlist by files in OFAC SDN format."""
    from local import watchlists

    typer.echo(watchlists.import_files(mesh_state(state), folder, name, tenant))


@rules.command("get")
def rules_get(
    rule: Annotated[str | None, typer.Argument(help="A rule's id; all if absent.")] = None,
    tenant: TenantOption = "demo",
    state: StateOption = None,
) -> None:
    """Show one rule, or all."""
    _show(state, f"/v1/rules/{rule.removeprefix('rules/')}" if rule else "/v1/rules", tenant)


@rules.command("set", epilog="Example:  florin rules set large 'payment.amount_minor_units > 1000000' --outcome review")
def rules_set(
    rule: Annotated[str, typer.Argument(help="The rule's id.")],
    expression: Annotated[str, typer.Argument(help="A condition in CEL over `payment` and `debtor`.")],
    outcome: Annotated[
        str | None, typer.Option(help="decline or review; as it was if absent, review for a new rule.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="What it is for; as it was if absent.")] = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Keep it without applying it.")] = False,
    tenant: TenantOption = "demo",
    state: StateOption = None,
) -> None:
    """Make a rule, or a new version of it."""
    if outcome not in {None, "decline", "review"}:
        raise MeshError(f"--outcome {outcome}: write decline or review.")
    from local import rest

    before = rest.find(mesh_state(state), f"/v1/rules/{rule}", "RULE_NOT_FOUND", tenant=tenant).get("rule", {})
    content = {
        "expression": expression,
        "outcome": f"RULE_OUTCOME_{outcome.upper()}" if outcome else before.get("outcome", "RULE_OUTCOME_REVIEW"),
        "enabled": not disabled,
        "description": before.get("description", "") if description is None else description,
    }
    _print(rest.call(mesh_state(state), "POST", "/v1/rules", {"ruleId": rule, "rule": content}, tenant=tenant))


@limits.command("get")
def limits_get(
    limit: Annotated[str | None, typer.Argument(help="A limit's id; all if absent.")] = None,
    tenant: TenantOption = "demo",
    state: StateOption = None,
) -> None:
    """Show one limit, or all."""
    _show(state, f"/v1/limits/{limit.removeprefix('limits/')}" if limit else "/v1/limits", tenant)


@limits.command("set", epilog="Example:  florin limits set per-day EUR 50000.00 --customer acme")
def limits_set(
    kind: Annotated[str, typer.Argument(help="per-payment or per-day.")],
    currency: Annotated[str, typer.Argument(help="ISO 4217 code.")],
    maximum: Annotated[str, typer.Argument(help="Amount, for example 50000.00.")],
    customer: Annotated[str | None, typer.Option(help="For this customer; for all of the tenant if absent.")] = None,
    tenant: TenantOption = "demo",
    state: StateOption = None,
) -> None:
    """Set a limit; it holds for the payments that are screened from then on."""
    from local import rest

    body = {"limit": limit_message(kind, currency, maximum, customer)}
    _print(rest.call(mesh_state(state), "POST", "/v1/limits", body, tenant=tenant))


@events.command(
    "replay", epilog="Example:  florin events replay transactions 2026-01-31T08:00:00Z 2026-01-31T09:00:00Z"
)
def events_replay(
    service: Annotated[str, typer.Argument(help="Whose events.")],
    start: Annotated[str, typer.Argument(help="From this time on (ISO 8601).")],
    end: Annotated[str, typer.Argument(help="Up to this time, without it.")],
    again_for: Annotated[
        str | None, typer.Option(help="A consumer that handles them although it has seen them; others skip those.")
    ] = None,
    state: StateOption = None,
) -> None:
    """Publish a service's events of a time range once more, in order and under their ids."""
    from local import events as work

    typer.echo(work.replay(mesh_state(state), service, start, end, again_for))


@events.command("dead")
def events_dead(
    state: StateOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List the events that a consumer could not handle."""
    import asyncio

    from local import events as work

    letters = asyncio.run(work.dead(mesh_state(state)))
    shown = ("number", "consumer", "subject", "event_id", "tenant", "aggregate", "failure", "time")
    if as_json:
        typer.echo(json.dumps([{name: getattr(letter, name) for name in shown} for letter in letters], indent=2))
        return
    for letter in letters:
        typer.echo("  ".join(str(getattr(letter, name)) for name in shown))
    typer.echo(f"{len(letters)} dead letters")


@events.command("redrive")
def events_redrive(
    number: Annotated[int | None, typer.Argument(help="Its number in the list; all if absent.")] = None,
    state: StateOption = None,
) -> None:
    """Send dead letters to their consumers once more."""
    import asyncio

    from local import events as work

    typer.echo(f"{asyncio.run(work.redrive(mesh_state(state), number))} sent once more")


@events.command("drop")
def events_drop(
    number: Annotated[int, typer.Argument(help="Its number in the list.")],
    state: StateOption = None,
) -> None:
    """Take a dead letter away for good."""
    import asyncio

    from local import events as work

    typer.echo(f"{asyncio.run(work.drop(mesh_state(state), number))} dropped")


def limit_message(kind: str, currency: str, maximum: str, customer: str | None) -> dict[str, Any]:
    """A limit as the REST interface takes it. Raises MeshError when kind or amount make no sense."""
    from meshkit import money
    from meshkit.errors import CurrencyUnknown

    kinds = {"per-payment": "LIMIT_KIND_PER_PAYMENT", "per-day": "LIMIT_KIND_PER_DAY"}
    if kind not in kinds:
        raise MeshError(f"{kind}: a limit is per-payment or per-day.")
    try:
        minor = money.parse(maximum, currency)
    except (CurrencyUnknown, ValueError) as error:
        raise MeshError(f"{maximum} {currency}: {error}.") from None
    message: dict[str, Any] = {
        "kind": kinds[kind],
        "maximum": {"currencyCode": currency, "minorUnits": str(minor)},
    }
    if customer:
        message["customer"] = customer if customer.startswith("customers/") else f"customers/{customer}"
    return message


def _show(state: Path | None, path: str, tenant: str) -> None:
    from local import rest

    _print(rest.call(mesh_state(state), "GET", path, tenant=tenant))


def _print(answer: dict[str, Any]) -> None:
    typer.echo(json.dumps(answer, indent=2))


def main() -> None:
    """The entry point: what the person can mend is one sentence on stderr, without a traceback."""
    try:
        app()
    except MeshError as error:
        sentence = str(error)
    except OSError as error:
        # A full disk, a folder that may not be written to, too many open files.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE):
            raise
        sentence = f"{error.filename or 'The system'}: {error.strerror}."
    else:
        return
    typer.secho(sentence, fg=typer.colors.RED, err=True)
    raise SystemExit(1)
