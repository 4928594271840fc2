"""What staff does with fee schedules: one function, one use case; how transfers are priced is in tariffs.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import audit, clock, money, outbox
from meshkit.errors import EtagMismatch, RequestInvalid
from meshkit.identity import Call
from transactions import errors, events, fee_store, fees
from transactions.fees import FeeSchedule
from transactions.model import AccountType
from transactions.ports import Ledger

_AHEAD_MAX = timedelta(days=366)
"""How far ahead a version may begin."""


async def check(ledger: Ledger, schedule: FeeSchedule) -> None:
    """What can be refused before anything is written.

    Raises CurrencyUnknown, RequestInvalid, AccountNotFound, CurrencyMismatch, AccountTypeWrong, or Unavailable when
    accounts does not answer.
    """
    money.exponent(schedule.currency)
    if schedule.start_time - schedule.create_time > _AHEAD_MAX:
        raise RequestInvalid([("fee_schedule.start_time", f"must be within {_AHEAD_MAX.days} days of the present")])
    place = (schedule.tenant, schedule.account)
    account = (await ledger.resolve([place])).get(place)
    if account is None:
        raise errors.AccountNotFound(schedule.account)
    if account.currency != schedule.currency:
        raise errors.CurrencyMismatch(account.name, account.currency, schedule.currency)
    if account.type is not AccountType.FEE:
        raise errors.AccountTypeWrong(account.name, account.type, "fees go to a fee account")


async def set_fee_schedule(conn: AsyncConnection, call: Call, wanted: FeeSchedule, etag: str) -> FeeSchedule:
    """The next version of a schedule, which `check` let pass; audited. Raises EtagMismatch."""
    version = await fee_store.next_version(conn, call.tenant, wanted.kind, wanted.currency)
    if etag and etag != str(version - 1):
        raise EtagMismatch(str(version - 1))
    before = await fee_store.read_version(conn, call.tenant, wanted.kind, wanted.currency)
    moment = clock.now()
    after = replace(wanted, version=version, create_time=moment, start_time=max(wanted.start_time, moment))
    await fee_store.add_version(conn, after)
    await outbox.append(conn, [events.fee_schedule_changed(after)])
    await audit.record(
        conn,
        call,
        action="set_fee_schedule",
        resource=after.name,
        before=_facts(before) if before is not None else None,
        after=_facts(after),
    )
    return after


async def get_fee_schedule(conn: AsyncConnection, tenant: str, name: str, version: int = 0) -> FeeSchedule:
    """A version of a schedule, the newest for 0. Raises FeeScheduleNotFound."""
    key = fees.key_in(name)
    found = await fee_store.read_version(conn, tenant, *key, version) if key is not None else None
    if found is None:
        raise errors.FeeScheduleNotFound(name, version)
    return found


async def list_versions(conn: AsyncConnection, tenant: str, name: str, *, before: int, limit: int) -> list[FeeSchedule]:
    """A schedule's versions below one, the newest first. Raises FeeScheduleNotFound."""
    schedule = await get_fee_schedule(conn, tenant, name)
    return await fee_store.list_versions(conn, tenant, schedule.kind, schedule.currency, before=before, limit=limit)


def _facts(schedule: FeeSchedule) -> Mapping[str, object]:
    return {
        "version": schedule.version,
        "fixed_minor_units": schedule.fixed,
        "percent": fees.millionths_to_percent(schedule.millionths),
        "rounding": schedule.rounding.value,
        "minimum_minor_units": schedule.minimum,
        "maximum_minor_units": schedule.maximum,
        "fee_account": schedule.account,
        "enabled": schedule.enabled,
        "start_time": schedule.start_time.isoformat(),
    }
