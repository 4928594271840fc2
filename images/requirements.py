"""Prints the part of requirements.lock that an image needs, with its hashes; it resolves nothing anew.

`python images/requirements.py accounts` for a service, `operator` for the florin command without the parts of a mesh on
one machine, `stubs` for generating the stubs. What a package requires is read from the lock, which says for each who
asked for it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"

SERVICE = (
    "aiohttp", "alembic", "cryptography", "googleapis-common-protos", "grpcio", "grpcio-health-checking",
    "grpcio-reflection", "grpcio-status", "joserfc", "nats-py", "opentelemetry-exporter-otlp-proto-grpc",
    "opentelemetry-sdk", "prometheus-client", "protovalidate", "psycopg", "pydantic-settings", "pyyaml", "sqlalchemy",
    "structlog", "tzdata", "uvloop",
)  # fmt: skip
OWN = {
    "accounts": ("lxml",),
    "transactions": ("lxml", "sepaxml"),
    "compliance": ("common-expression-language", "pyicu-wheels", "rapidfuzz", "rigour"),
    "notifications": ("standardwebhooks",),
}
"""What a service imports beside what all do."""
IMAGES = {
    **{service: (*SERVICE, *own) for service, own in OWN.items()},
    "checker": SERVICE,
    "operator": (*SERVICE, *(name for own in OWN.values() for name in own), "rich", "typer"),
    "stubs": ("googleapis-common-protos", "grpcio-tools", "mypy-protobuf", "protovalidate"),
}
"""Image → the packages that its code imports."""

UNUSED = {
    "common-expression-language": {"prompt-toolkit", "pygments", "rich", "typer"},
    "rigour": {"jinja2"},
}
"""Package → what it requires for parts that nothing here imports: a command line, the forms of postal addresses."""


def entries(lock: str) -> dict[str, str]:
    """Package → its entry in the lock, comments included."""
    blocks = re.split(r"^(?=[a-z0-9][a-z0-9._-]*==)", lock, flags=re.M)
    return {block.partition("==")[0]: block for block in blocks if "==" in block}


def closure(roots: Collection[str], found: dict[str, str]) -> list[str]:
    """The roots and all that they require but for UNUSED, sorted. Raises SystemExit for a root that is not locked."""
    missing = sorted(set(roots) - set(found))
    if missing:
        sys.exit(f"requirements.lock has no {', '.join(missing)}; run `make lock`")
    asked_for_by = {
        name: {
            asker
            for asker in re.findall(r"^    #(?: via)? +([a-z0-9][a-z0-9._-]*)(?: |$)", block, re.M)
            if name not in UNUSED.get(asker, ())
        }
        for name, block in found.items()
    }
    wanted = set(roots)
    while True:
        more = {name for name, askers in asked_for_by.items() if askers & wanted} - wanted
        if not more:
            return sorted(wanted)
        wanted |= more


def main(image: str) -> None:
    """Prints the entries without their comments."""
    found = entries(LOCK.read_text())
    for name in closure(IMAGES[image], found):
        sys.stdout.write("".join(line for line in found[name].splitlines(True) if not line.lstrip().startswith("#")))


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in IMAGES:
        sys.exit(f"usage: python images/requirements.py {'|'.join(IMAGES)}")
    main(sys.argv[1])
