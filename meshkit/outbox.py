"""Domain events leave through a table: written with their change, relayed in order per aggregate, kept for replay."""

from __future__ import annotations

import asyncio
import uuid
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from florin.common.v1 import policy_pb2
from meshkit import clock, identity, logs, telemetry
from meshkit.batching import event_gather_seconds
from meshkit.database import ALL_TENANTS, Database, execute
from meshkit.errors import Unavailable
from meshkit.idempotency import NAMESPACE

if TYPE_CHECKING:
    from meshkit.bus import Bus

PARTITIONS = 16
"""How many relays can share the work; part of the data, so it is never changed."""

_BATCH = 500
_POLL_SECONDS = 0.2
_COUNTED_MAX = 100_000  # of waiting events; more is a number that takes long to count and says nothing else
_PURGE_ROUNDS = 40
_PURGE_SECONDS, _PURGE_FULL_SECONDS = 60, 0.2  # 200 rounds a second are gone where so many come
_PUBLISH_SECONDS = 5.0
"""A batch that takes longer is broken off and what was published of it is noted."""
STANDSTILL_SECONDS = 15
"""A relay that is not heard of for this long, three times what a batch takes, loses its partitions."""
_LOCK_CLASS = 0x6F757462  # "outb": the class of the advisory locks that own partitions

_log = logs.get(__name__)

_INSERT = (
    "INSERT INTO outbox (tenant, partition, event_id, subject, aggregate, version, time, traceparent, data)"
    " SELECT * FROM unnest(%s::text[], %s::smallint[], %s::uuid[], %s::text[], %s::text[], %s::bigint[],"
    " %s::timestamptz[], %s::text[], %s::bytea[])"
)


@dataclass(frozen=True, slots=True)
class Event:
    """A state change to tell of. `version` counts the aggregate's changes from 1 and is given under its lock."""

    tenant: str
    aggregate: str
    """The resource name, for example "accounts/main"."""
    version: int
    message: Message
    """A message of the service's events.proto."""
    time: datetime
    """When it happened, from the durable row, never from the clock."""
    traceparent: str = ""
    """The trace that it belongs to, where it is not that of everything that is written with it."""

    @property
    def id(self) -> uuid.UUID:
        """The same change has the same id, however often it is told."""
        return uuid.uuid5(NAMESPACE, f"{self.tenant}/{self.aggregate}#{self.version}")


def subject_of(message: Message) -> str:
    """The NATS subject of an event message, from the contract."""
    subject: str = message.DESCRIPTOR.GetOptions().Extensions[policy_pb2.event].subject
    if not subject:
        raise ValueError(f"{message.DESCRIPTOR.full_name} is not an event: its contract names no subject")
    return subject


async def append(conn: AsyncConnection, events: Sequence[Event]) -> None:
    """Writes events in the transaction of the change that they tell of."""
    if not events:
        return
    trace = identity.traceparent()
    columns = (
        [event.tenant for event in events],
        [zlib.crc32(f"{event.tenant}/{event.aggregate}".encode()) % PARTITIONS for event in events],
        [event.id for event in events],
        [subject_of(event.message) for event in events],
        [event.aggregate for event in events],
        [event.version for event in events],
        [event.time for event in events],
        [event.traceparent or trace for event in events],
        [event.message.SerializeToString() for event in events],
    )
    await execute(conn, _INSERT, columns)
    conn.info["florin_events"] = True


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """An event as it stands in the table."""

    tenant: str
    id: int
    event_id: uuid.UUID
    subject: str
    aggregate: str
    version: int
    time: datetime
    traceparent: str
    data: bytes


_COLUMNS = "tenant, id, event_id, subject, aggregate, version, time, traceparent, data"
# Each partition by its index, and then the oldest of all: after a long outage of the broker millions of rows wait, and
# to sort them for every batch would take longer than new ones come. Of each are read four times its share of a batch:
# all of one for the case that only it has any would be sixteen batches read for one. An event that is gone has no data.
_TAKE = (
    "SELECT w.tenant, w.id, o.event_id, o.subject, o.aggregate, o.version, o.time, o.traceparent, o.data, w.partition"  # noqa: S608
    " FROM (SELECT w.* FROM unnest(%s::smallint[]) AS p CROSS JOIN LATERAL"
    " (SELECT * FROM outbox_waiting WHERE partition = p ORDER BY id LIMIT %s) AS w"
    f" ORDER BY w.id LIMIT {_BATCH}) AS w LEFT JOIN outbox AS o ON o.tenant = w.tenant AND o.id = w.id ORDER BY w.id"
)
IN_ORDER = "SELECT set_config('enable_bitmapscan', 'off', false)"
"""An index gives the oldest first and can stop; a bitmap, which looks cheap before statistics are made, reads all."""
# Which events went together and when, a row for each tenant: so little is kept of it that no event is written again.
_DONE = (
    "WITH done AS (SELECT * FROM unnest(%s::text[], %s::smallint[], %s::bigint[]) AS d(tenant, partition, id)),"
    " gone AS (DELETE FROM outbox_waiting AS w USING done AS d WHERE w.partition = d.partition AND w.id = d.id)"
    " INSERT INTO outbox_rounds (tenant, partitions, ids)"
    " SELECT tenant, array_agg(partition), array_agg(id) FROM done GROUP BY tenant"
)
_COUNT = f"SELECT count(*) FROM (SELECT 1 FROM outbox_waiting LIMIT {_COUNTED_MAX}) AS waiting"  # noqa: S608
_OLDEST = (
    "SELECT min(o.time) FROM generate_series(0, %s) AS p CROSS JOIN LATERAL"
    " (SELECT tenant, id FROM outbox_waiting WHERE partition = p ORDER BY id LIMIT 1) AS w"
    " JOIN outbox AS o ON o.tenant = w.tenant AND o.id = w.id"
)
_OWN = (
    "SELECT p::smallint FROM generate_series(0, %s) AS p WHERE NOT p = ANY(%s) AND pg_try_advisory_lock(%s, p::integer)"
)


_RETELL_SECONDS = 5.0
"""What a broker acknowledged just before it was lost may not have reached its disk, which it syncs every second."""
_RETELL = (
    "INSERT INTO outbox_waiting (tenant, partition, id) SELECT r.tenant, e.partition, e.id FROM outbox_rounds AS r"
    " CROSS JOIN LATERAL unnest(r.partitions, r.ids) AS e(partition, id)"
    " WHERE r.published_at >= (SELECT max(published_at) FROM outbox_rounds) - %s::interval AND e.partition = ANY(%s)"
    " ON CONFLICT DO NOTHING"
)
# What waits to be told once more keeps its place among those that wait; without its event it is passed over there.
_PURGE = (
    "WITH old AS (SELECT tenant, id FROM outbox_rounds WHERE published_at < now() - %s::interval"
    " ORDER BY published_at LIMIT %s FOR UPDATE SKIP LOCKED),"
    " gone AS (DELETE FROM outbox_rounds AS r USING old WHERE r.tenant = old.tenant AND r.id = old.id"
    " RETURNING r.tenant, r.ids),"
    " events AS (DELETE FROM outbox AS o USING (SELECT tenant, unnest(ids) AS id FROM gone) AS g"
    " WHERE o.tenant = g.tenant AND o.id = g.id)"
    " SELECT count(*) FROM gone"
)


class Relay:
    """Publishes the outbox. Any number of replicas may run one: a partition is owned by one of them at a time."""

    def __init__(self, db: Database, bus: Bus, *, retention_hours: float) -> None:
        self._db = db
        self._bus = bus
        self._retention = timedelta(hours=retention_hours)

    async def run(self) -> None:
        """Relays until it is cancelled; the caller starts it again when it fails."""
        # The locks live as long as this connection: if it breaks, another relay may own the partitions at once, and
        # this one learns it from its next statement.
        async with self._db.engine.connect() as conn:
            await conn.exec_driver_sql("SELECT set_config('florin.tenants', %s, false)", (ALL_TENANTS,))
            await conn.exec_driver_sql("SELECT set_config('synchronous_commit', 'off', false)")
            await conn.exec_driver_sql(IN_ORDER)
            # A replica that stands still, or whose host is gone without a word, would keep its partitions for good.
            await conn.exec_driver_sql(
                "SELECT set_config('idle_session_timeout', %s, false)", (f"{STANDSTILL_SECONDS}s",)
            )
            try:
                await self._relay(conn)
            finally:
                # A pooled connection must not keep locks or rights.
                await conn.invalidate()

    async def _relay(self, conn: AsyncConnection) -> None:
        owned: list[int] = []
        loop = asyncio.get_running_loop()
        own_again = observe_again = purge_again = 0.0
        connections = self._bus.connections
        while True:
            if len(owned) < PARTITIONS and loop.time() >= own_again:
                rows = await conn.exec_driver_sql(_OWN, (PARTITIONS - 1, owned, _LOCK_CLASS))
                new = [row[0] for row in rows]
                owned.extend(new)
                own_again = loop.time() + 2
                if new:
                    await self._tell_again(conn, new)
            if connections != self._bus.connections:
                connections = self._bus.connections
                await self._tell_again(conn, owned)
            self._db.outbox_written.clear()
            published, more = await self._publish_batch(conn, owned) if owned else (0, False)
            if loop.time() >= observe_again:
                await self._observe(conn)
                observe_again = loop.time() + 5
            if loop.time() >= purge_again and owned:
                full = await self._purge(conn)
                purge_again = loop.time() + (_PURGE_FULL_SECONDS if full else _PURGE_SECONDS)
            if not more:
                await self._wait(event_gather_seconds(published))

    async def _tell_again(self, conn: AsyncConnection, partitions: list[int]) -> None:
        """Publishes what was published last once more, in order: a broker that was away may have lost it. One that has
        it drops it by its id, or else the consumers' inboxes do."""
        await conn.exec_driver_sql(_RETELL, (timedelta(seconds=_RETELL_SECONDS), partitions))

    async def _wait(self, gather_seconds: float) -> None:
        try:
            await asyncio.wait_for(self._db.outbox_written.wait(), _POLL_SECONDS)
        except TimeoutError:
            return
        await asyncio.sleep(gather_seconds)

    async def _publish_batch(self, conn: AsyncConnection, owned: list[int]) -> tuple[int, bool]:
        """Publishes a batch; how many events, and whether more wait that were not read."""
        of_each = min(4 * _BATCH // len(owned), _BATCH)
        waiting: Sequence[Any] = (await conn.exec_driver_sql(_TAKE, (owned, of_each))).all()
        rows = [OutboxRow(*row[:-1]) for row in waiting if row[2] is not None]
        published: list[OutboxRow] = []
        failure: Exception | None = None
        seconds = asyncio.get_running_loop().time
        started = seconds()
        for turn in rounds(rows):
            if seconds() - started > _PUBLISH_SECONDS:
                break
            try:
                outcomes: Sequence[Exception | None] = await self._bus.publish_rows(turn)
            except Unavailable as error:
                outcomes = [error] * len(turn)
            took = [row for row, outcome in zip(turn, outcomes, strict=True) if outcome is None]
            published.extend(took)
            if len(took) < len(turn):
                failure = next(outcome for outcome in outcomes if outcome is not None)
                _log.warning("events wait in the outbox", cause=repr(failure), waiting=len(rows) - len(published))
                break
        told = {row.id for row in published}
        done = [row for row in waiting if row[2] is None or row[1] in told]
        if done:
            await conn.exec_driver_sql(_DONE, tuple([row[place] for row in done] for place in (0, -1, 1)))
        if failure is not None:
            await asyncio.sleep(0.5)
        most = max(Counter(row[-1] for row in waiting).values(), default=0)
        return len(published), failure is None and (len(waiting) == _BATCH or most == of_each)

    async def _observe(self, conn: AsyncConnection) -> None:
        telemetry.OUTBOX_UNPUBLISHED.set((await conn.exec_driver_sql(_COUNT)).scalar_one())
        oldest = (await conn.exec_driver_sql(_OLDEST, (PARTITIONS - 1,))).scalar_one()
        age = (clock.now() - oldest).total_seconds() if oldest else 0.0
        telemetry.OUTBOX_AGE.set(max(age, 0.0))

    async def _purge(self, conn: AsyncConnection) -> bool:
        """Removes some of what was published longer ago than it is kept; whether there may be more. What another relay
        removes at this moment is left to it."""
        purged = await conn.exec_driver_sql(_PURGE, (self._retention, _PURGE_ROUNDS))
        return int(purged.scalar_one()) == _PURGE_ROUNDS


def rounds(rows: Sequence[OutboxRow]) -> list[list[OutboxRow]]:
    """Splits rows so that a round has at most one event of an aggregate: a round is published at once, in any order,
    and the next one only after it, so that the order of each aggregate holds."""
    turns: list[list[OutboxRow]] = []
    depth: dict[tuple[str, str], int] = {}
    for row in rows:
        turn = depth.get((row.tenant, row.aggregate), 0)
        depth[row.tenant, row.aggregate] = turn + 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(row)
    return turns


async def replay(db: Database, bus: Bus, *, start: datetime, end: datetime, again_for: str = "") -> int:
    """Publishes the events of [start, end) again, in order and under their ids; gives their count.

    Consumers skip what they have seen; the one that `again_for` names handles everything once more.
    """
    count, after = 0, 0
    while True:

        async def take(conn: AsyncConnection, after: int = after) -> list[OutboxRow]:
            rows = await conn.execute(
                text(
                    f"SELECT {_COLUMNS} FROM outbox AS o WHERE time >= :start AND time < :end AND id > :after"  # noqa: S608
                    " AND NOT EXISTS (SELECT FROM outbox_waiting AS w WHERE w.partition = o.partition AND w.id = o.id)"
                    " ORDER BY id LIMIT 500"
                ),
                {"start": start, "end": end, "after": after},
            )
            return [OutboxRow(*row) for row in rows]

        page = await db.run(ALL_TENANTS, take, read_only=True)
        if not page:
            return count
        for turn in rounds(page):
            for failure in await bus.publish_rows(turn, replay=True, again_for=again_for):
                if failure is not None:
                    raise failure
        count, after = count + len(page), page[-1].id
