"""Events in: accounts' customers and tenants, transactions' ends of transfers; it must not decide about payments."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncConnection

from compliance import kyc_store, screening_operations
from compliance.model import End, ReservationState
from compliance.screening import UNKNOWN_TENANT_ZONE
from compliance.settings import Settings
from florin.accounts.v1 import events_pb2 as accounts_pb
from florin.transactions.v1 import events_pb2 as transactions_pb
from meshkit import logs
from meshkit.bus import Bus
from meshkit.cipher import Cipher
from meshkit.database import Database
from meshkit.envelopes import Incoming
from meshkit.inbox import Consumer

_log = logs.get(__name__)

_CUSTOMER_EVENTS: dict[str, type[accounts_pb.CustomerCreated | accounts_pb.CustomerUpdated]] = {
    "florin.accounts.customer_created.v1": accounts_pb.CustomerCreated,
    "florin.accounts.customer_updated.v1": accounts_pb.CustomerUpdated,
}


async def on_accounts(conn: AsyncConnection, incoming: Sequence[Incoming]) -> None:
    """Keeps tenants with their time zones, and the customers that there are."""
    tenants: list[tuple[str, str, datetime]] = []
    customers: dict[tuple[str, str], datetime] = {}
    for event in incoming:
        if event.type == "florin.accounts.tenant_created.v1":
            created = accounts_pb.TenantCreated.FromString(event.data)
            tenants.append((event.tenant, _time_zone(created.time_zone), event.time))
        elif event.type in _CUSTOMER_EVENTS:
            # CustomerUpdated as well: a stream may have lost the first event for good.
            changed = _CUSTOMER_EVENTS[event.type].FromString(event.data)
            customers.setdefault((event.tenant, changed.customer.removeprefix("customers/")), event.time)
    if tenants:
        await kyc_store.add_tenants(conn, tenants)
    if customers:
        await kyc_store.add_customers(conn, [(*key, time) for key, time in customers.items()])


def on_transactions(cipher: Cipher) -> Callable[[AsyncConnection, Sequence[Incoming]], Awaitable[None]]:
    """The handler of transfers that became final, and of authorizations."""

    async def handle(conn: AsyncConnection, incoming: Sequence[Incoming]) -> None:
        ends: dict[tuple[str, str], End] = {}
        leases: dict[tuple[str, str], datetime] = {}
        for event in incoming:
            match event.message():
                case transactions_pb.TransferAuthorized() as told:
                    leases[event.tenant, told.transfer] = told.expire_time.ToDatetime(tzinfo=UTC)
                case transactions_pb.TransferCompleted() as told:
                    ends.setdefault((event.tenant, told.transfer), End(ReservationState.CAPTURED))
                case transactions_pb.TransferCaptured() as told if told.ended:
                    moved = End(ReservationState.CAPTURED, told.captured_amount.minor_units)
                    ends.setdefault((event.tenant, told.transfer), moved)
                case (
                    transactions_pb.TransferDeclined()
                    | transactions_pb.TransferVoided()
                    | transactions_pb.TransferExpired()
                ) as told:
                    ends.setdefault((event.tenant, told.transfer), End(ReservationState.RELEASED))
        if ends:
            await screening_operations.end_transfers(conn, cipher, ends)
        if leases:  # after the ends, whose locks go before those of reservations
            await screening_operations.prolong_leases(conn, leases)

    return handle


def _time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not one that this machine knows
        _log.error("a tenant's time zone is unknown here; its days are counted in UTC", time_zone=name)
        return UNKNOWN_TENANT_ZONE
    return name


def workers(settings: Settings, bus: Bus, db: Database) -> dict[str, Callable[[], Awaitable[None]]]:
    """One durable consumer for each publisher."""
    handlers = {"accounts": on_accounts, "transactions": on_transactions(db.cipher)}
    return {
        f"events-{publisher}": Consumer(
            bus,
            db,
            stream=publisher,
            durable=settings.service,
            handle=handler,
            gap_seconds=None,
        ).run
        for publisher, handler in handlers.items()
    }
