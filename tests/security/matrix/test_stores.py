"""What a service's own credentials open beyond the service: nothing of the others' events and databases."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
import nats.errors
import psycopg
import pytest

from local.binaries import find
from local.postgres import Postgres
from local.state import SERVICES
from meshkit import policy
from tests.support.mesh import Mesh

POLICIES = {service: policy.load(service) for service in SERVICES}
EVENTS = {subject for one in POLICIES.values() for subject in one.publishes}


@asynccontextmanager
async def connected(mesh: Mesh, identity: str | None, errors: list[str]) -> AsyncIterator[Any]:
    """A connection to the broker with the certificate of an identity, or without one; what the broker says goes into
    `errors`."""
    context = ssl.create_default_context(cafile=str(mesh.state.ca))
    if identity is not None:
        certificate, key = mesh.state.certificate(identity)
        context.load_cert_chain(str(certificate), str(key))

    async def note(error: Exception) -> None:
        errors.append(str(error).lower())

    client = await nats.connect(
        f"tls://127.0.0.1:{mesh.description['ports']['nats']}",
        tls=context,
        connect_timeout=5,
        allow_reconnect=False,
        error_cb=note,
        inbox_prefix=f"_INBOX.{identity}".encode(),
    )
    try:
        yield client
    finally:
        await client.close()


async def refusals_of_publishing(client: Any, errors: list[str], subjects: set[str]) -> set[str]:
    """Which of the subjects the broker does not let this client publish to. Nothing allowed may be among them: it
    would be published."""
    errors.clear()
    for subject in sorted(subjects):
        await client.publish(subject, b"forged")
    await client.flush(timeout=5)
    # The broker's words about a publish come before its answer to the flush; the callbacks run a moment later.
    for _ in range(100):
        if len(errors) >= len(subjects):
            break
        await asyncio.sleep(0.01)
    return {subject for subject in subjects if any(f'"{subject.lower()}"' in error for error in errors)}


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_cannot_publish_what_its_policy_does_not_name(mesh: Mesh, service: str) -> None:
    """Not another's event, nor an event that is none, another's dead letters, or a command to the broker."""
    errors: list[str] = []
    others = set(SERVICES) - {service}
    forbidden = EVENTS - set(POLICIES[service].publishes)
    forbidden |= {f"florin.deadletters.{other}.forged" for other in others}
    forbidden |= {f"$JS.API.STREAM.{verb}.{other}" for other in SERVICES for verb in ("DELETE", "PURGE", "UPDATE")}
    forbidden |= {f"$JS.API.CONSUMER.MSG.NEXT.accounts.{other}" for other in others}
    forbidden |= {f"$JS.API.CONSUMER.DELETE.accounts.{service}", "florin.accounts.made_up.v1", "$SYS.REQ.SERVER.PING"}
    forbidden |= {f"$JS.ACK.accounts.{other}.1.1.1.1.0" for other in others}
    async with connected(mesh, service, errors) as client:
        refused = await refusals_of_publishing(client, errors, forbidden)
    assert forbidden - refused == set()


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_cannot_listen_in(mesh: Mesh, service: str) -> None:
    """It is answered in its own inbox alone: no subscription to events, to others' inboxes or to everything."""
    errors: list[str] = []
    async with connected(mesh, service, errors) as client:
        other = next(one for one in SERVICES if one != service)
        wanted = {">", "florin.>", f"_INBOX.{other}.>", "_INBOX.>", "$JS.>", *POLICIES[other].publishes}
        for subject in wanted:
            await client.subscribe(subject)
        await client.flush(timeout=5)
        for _ in range(100):
            if len(errors) >= len(wanted):
                break
            await asyncio.sleep(0.01)
    heard = {subject for subject in wanted if not any(f'"{subject.lower()}"' in error for error in errors)}
    assert heard == set()


@pytest.mark.parametrize("service", [name for name in SERVICES if POLICIES[name].consumes])
async def test_a_service_reads_its_own_consumer_and_no_other(mesh: Mesh, service: str) -> None:
    """What it may ask of JetStream is its own durable: it answers, and another's does not."""
    errors: list[str] = []
    async with connected(mesh, service, errors) as client:
        stream = next(iter(POLICIES[service].consumes))
        answer = await client.request(f"$JS.API.CONSUMER.INFO.{stream}.{service}", b"", timeout=5)
        assert b'"error"' not in answer.data
        other = next(one for one in SERVICES if one != service)
        with pytest.raises(nats.errors.TimeoutError):
            await client.request(f"$JS.API.CONSUMER.INFO.{stream}.{other}", b"", timeout=0.3)


@pytest.mark.parametrize("identity", [None, "edge", "nats"])
async def test_the_broker_serves_nobody_who_has_no_part_in_it(mesh: Mesh, identity: str | None) -> None:
    """Without a certificate there is no connection; the edge's and the broker's own certificates are no users."""
    with pytest.raises((nats.errors.Error, OSError)):
        async with connected(mesh, identity, []):
            raise AssertionError("the broker let it in")


def database(mesh: Mesh, name: str, role: str) -> psycopg.Connection[Any]:
    """A connection to a database of the mesh as a role, with that role's password."""
    url = Postgres(mesh.state, find()).url(name, role, with_password=True)
    return psycopg.connect(
        host=str(url.query["host"]),
        port=str(url.query["port"]),
        user=url.username,
        password=url.password,
        dbname=name,
    )


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_reaches_its_own_database_and_no_other(mesh: Mesh, service: str) -> None:
    """Its runtime role may connect to one database of the four, is no superuser, and cannot become its owner."""
    role = f"{service}_runtime"
    with database(mesh, service, role) as own:
        row = own.execute(
            "SELECT rolsuper OR rolbypassrls OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname = %s", (role,)
        ).fetchone()
        assert row == (False,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            own.execute(f"SET ROLE {service}_owner")
    for other in {*SERVICES, "postgres", "template1"} - {service}:
        with (
            pytest.raises(psycopg.OperationalError, match="permission denied for database"),
            database(mesh, other, role),
        ):
            raise AssertionError(f"{role} reached {other}")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_sees_no_row_without_a_tenant(mesh: Mesh, service: str) -> None:
    """Row-level security is on for the runtime role in every table with a tenant, and shows nothing by default."""
    with database(mesh, service, f"{service}_runtime") as connection:
        tables = [
            row[0]
            for row in connection.execute(
                "SELECT c.oid::regclass::text FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid"
                " WHERE a.attname = 'tenant' AND c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace"
                " AND has_table_privilege(c.oid, 'SELECT')"
            )
        ]
        assert len(tables) > 3
        shown = {}
        for table in tables:
            row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            shown[table] = row[0] if row else 0
    assert {table for table, count in shown.items() if count} == set()
