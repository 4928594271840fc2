"""Brings the four schemas up and declares the broker's streams; a process of its own, so that the supervisor is small.

It begins at a line on stdin: until then it imports, while PostgreSQL and NATS start. Without the line it does nothing,
since the supervisor is gone.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

# Their users import these two where they need them; here that is at once, while there is time.
import alembic.command  # noqa: F401
import psycopg
from sqlalchemy.engine import URL, make_url

import meshkit.bus  # noqa: F401
from checker import grants
from local import nats
from local.state import State
from meshkit import migrations, policy


def let_the_checker_read(owner: URL, service: str, role: str) -> None:
    """Gives a role the rights to read what the checker reads of a service's database, and no others."""
    parameters = {**owner.translate_connect_args(username="user", database="dbname"), **owner.query}
    with psycopg.connect(**parameters) as connection:
        grants.let_read(connection, service, role)


def main() -> None:
    """`python -m local.migrate PLAN`: JSON with the state folder, the broker's port, and each service's database."""
    plan = json.loads(sys.argv[1])
    if not sys.stdin.readline():
        return
    state = State(Path(plan["state"]))
    for service, address in plan["databases"].items():
        password = (state.secrets / f"postgres-{service}_owner").read_text()
        owner = make_url(address).set(password=password)
        migrations.upgrade(owner, service, f"{service}_runtime")
        let_the_checker_read(owner, service, f"{service}_checker")
    policies = {service: policy.load(service) for service in plan["databases"]}
    asyncio.run(nats.declare(state, plan["nats_port"], policies))


if __name__ == "__main__":
    main()
