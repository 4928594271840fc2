"""The arguments of envoy/generate.py, and what is read out of those that hold more than one thing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from edge_settings import SERVICES, Canary, EdgeError, EdgeSettings


def parser() -> argparse.ArgumentParser:
    """What envoy/generate.py takes."""
    made = argparse.ArgumentParser(
        prog="envoy/generate.py",
        description="Writes the edge's Envoy configuration from envoy/edge.yaml and the contracts (`make gen`).",
        epilog="Check it with: envoy --mode validate -c FILE",
    )
    need = made.add_argument_group("needed")
    need.add_argument("--output", required=True, metavar="FILE", help="where to write it; - is the standard output")
    need.add_argument("--listen", required=True, metavar="HOST:PORT", help="where callers connect (TLS)")
    need.add_argument("--admin", required=True, metavar="HOST:PORT", help="Envoy's own interface; loopback only")
    need.add_argument(
        "--upstream",
        action="append",
        required=True,
        metavar="SERVICE=HOST:PORT[,HOST:PORT...]",
        help=f"the replicas of a service, once for each of {', '.join(SERVICES)}; names are looked up again every 5 s",
    )
    need.add_argument("--issuer", required=True, metavar="URL", help="the `iss` of tokens")
    where = need.add_mutually_exclusive_group(required=True)
    where.add_argument("--issuer-jwks", metavar="URL", help="where the issuer's keys are, or")
    where.add_argument("--issuer-jwks-file", metavar="FILE", help="a file with them, read at the start")
    need.add_argument("--tls-cert", required=True, metavar="FILE", help="the certificate that callers see")
    need.add_argument("--tls-key", required=True, metavar="FILE", help="its key")
    need.add_argument("--ca", required=True, metavar="FILE", help="what signs the services' certificates")
    need.add_argument("--client-cert", required=True, metavar="FILE", help="the edge's own, spiffe://florin/edge")
    need.add_argument("--client-key", required=True, metavar="FILE", help="its key")
    _optional(made.add_argument_group("optional"))
    return made


def _optional(may: argparse._ArgumentGroup) -> None:
    default = {name: f.default for name, f in EdgeSettings.__dataclass_fields__.items()}
    may.add_argument("--audience", default=default["audience"], help="the `aud` of tokens (%(default)s)")
    may.add_argument(
        "--issuer-ca",
        default=default["issuer_ca"],
        metavar="FILE",
        help="what signs an https issuer's certificate (%(default)s)",
    )
    may.add_argument("--access-log", default=default["access_log"], metavar="FILE", help="%(default)s if absent")
    may.add_argument("--otlp", metavar="HOST:PORT", help="where traces go, OTLP over gRPC; none if absent")
    may.add_argument("--trace-percent", type=float, default=default["trace_percent"], help="of calls (%(default)s)")
    may.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        dest="cors_origins",
        metavar="ORIGIN",
        help="a web page's origin that may call, for example https://app.example; repeat for more",
    )
    for name, what in (
        ("rate-read", "reads a second of one subject"),
        ("rate-write", "writes a second of one subject"),
        ("rate-batch", "batches a second of one subject"),
        ("rate-admin", "administrative calls a second of one subject"),
        ("rate-address", "calls a second from one address, whatever their tokens"),
        ("rate-total", "calls a second from all"),
        ("body-bytes", "the largest request that is not an upload"),
        ("heap-bytes", "memory at which the edge refuses work"),
        ("connections", "connections at a time"),
        ("streams-per-connection", "calls at a time on one HTTP/2 connection"),
    ):
        may.add_argument(
            f"--{name}", type=int, metavar="N", default=default[name.replace("-", "_")], help=f"{what} (%(default)s)"
        )
    may.add_argument("--stats", metavar="HOST:PORT", help="where Prometheus may read Envoy's numbers, plain HTTP")
    may.add_argument(
        "--canary",
        action="append",
        default=[],
        dest="canaries",
        metavar="SERVICE:PERCENT=HOST:PORT[,HOST:PORT...]",
        help="replicas of another version that get a share of the calls; --upstream then names those of the first",
    )
    may.add_argument("--open-reflection", action="store_true", help="describe the contracts without a token")


def parse_upstreams(values: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """`accounts=h:1,h:2` → the replicas by service. Raises EdgeError."""
    made: dict[str, tuple[str, ...]] = {}
    for value in values:
        service, _, addresses = value.partition("=")
        if service not in SERVICES or not addresses:
            raise EdgeError(f"--upstream {value}: give SERVICE=HOST:PORT with one of {', '.join(SERVICES)}.")
        made[service] = (*made.get(service, ()), *addresses.split(","))
    return made


def parse_canaries(values: Sequence[str]) -> dict[str, Canary]:
    """`accounts:10=h:1,h:2` → the replicas that get 10 % of the calls. Raises EdgeError."""
    made: dict[str, Canary] = {}
    for value in values:
        who, _, addresses = value.partition("=")
        service, _, percent = who.partition(":")
        if service not in SERVICES or not addresses or not percent.isdigit() or not 1 <= int(percent) <= 99:
            raise EdgeError(
                f"--canary {value}: give SERVICE:PERCENT=HOST:PORT with one of {', '.join(SERVICES)} and 1 to 99."
            )
        made[service] = Canary(int(percent), tuple(addresses.split(",")))
    return made
