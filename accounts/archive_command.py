"""`python -m accounts archive`: moves old periods out of the ledger, as a role of its own; detaches and attaches."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import NoReturn

from sqlalchemy.engine import URL

from accounts import archiving
from accounts.archiving import ArchiveRefused, Order, Totals
from accounts.settings import Settings
from meshkit import clock, logs, sandbox
from meshkit.cipher import Cipher
from meshkit.database import Database, create_engine
from meshkit.errors import DomainError
from meshkit.settings import load

_USAGE = "archive --before TIME [--tenant T] [--share 0.5] | archive detach PERIOD | archive attach PERIOD"


def run(arguments: Sequence[str]) -> None:
    """The command. Exits with 2 on wrong arguments or settings, with 1 and a sentence when it cannot go on."""
    match list(arguments):
        case ["detach" | "attach" as verb, period] if (
            period.isascii() and period.isdigit() and 1 <= int(period) <= 9999
        ):
            asyncio.run(_change(load(Settings), verb, int(period)))
        case ["detach" | "attach", *_]:
            _refuse(f"usage: python -m accounts {_USAGE}", 2)
        case _:
            options, settings = _options(arguments), load(Settings)
            with sandbox.clock_of(settings.sandbox_clock_file):
                asyncio.run(_archive(settings, _moment(options.before), options.tenant, options.share))


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m accounts archive", usage=f"python -m accounts {_USAGE}")
    parser.add_argument("--before", required=True, help="what was recorded before it is moved; midnight UTC for a date")
    parser.add_argument("--tenant", help="this one alone")
    parser.add_argument("--share", type=float, default=0.5, help="of the time that is used, above 0 and up to 1")
    options = parser.parse_args(arguments)
    if not 0 < options.share <= 1:
        parser.error(f"--share {options.share}: it is above 0 and at most 1")
    return options


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        _refuse(f"--before {text} is no time; write it as 2026-01-01 or 2026-01-01T00:00:00Z", 2)
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    if moment > clock.now():
        _refuse(f"--before {text} has not come yet; what is to come is not archived", 2)
    return moment


async def _archive(settings: Settings, before: datetime, tenant: str | None, share: float) -> None:
    logs.configure(settings.service, settings.log_level)
    try:
        url = settings.archiver_url()
    except ValueError as error:
        _refuse(str(error), 2)
    totals, refused = Totals(), list[str]()
    try:
        async with open_database(settings, url) as db:
            known = await archiving.tenants(db)
            if tenant is not None and tenant not in known:
                _refuse(f"there is no tenant {tenant}", 1)
            for name in known if tenant is None else [tenant]:
                order = Order(name, before, url.username or "")
                try:
                    await archiving.archive_all(db, order, totals, share=share, tell=_Told(name))
                except ArchiveRefused as refusal:
                    refused.append(str(refusal))  # the others' books are not to wait for this one's
    except DomainError as error:
        refused.append(f"{error} The same command goes on with the rest.")
    left = f"; {totals.left} stay, since their period is detached or they follow some that stay" if totals.left else ""
    sys.stdout.write(f"{totals.journals} journals with {totals.entries} entries archived{left}\n")
    if refused:
        _refuse("\n".join(refused), 1)


class _Told:
    """Says now and then how far it is."""

    _EVERY = 50_000

    def __init__(self, tenant: str) -> None:
        self._tenant = tenant
        self._next = self._EVERY

    def __call__(self, totals: Totals) -> None:
        if totals.journals >= self._next:
            sys.stderr.write(f"tenant {self._tenant}: {totals.journals} journals archived\n")
            self._next += self._EVERY


@asynccontextmanager
async def open_database(settings: Settings, url: URL) -> AsyncIterator[Database]:
    """The service's database as another role sees it, by one connection."""
    engine = create_engine(url, settings, connections=1)
    try:
        yield Database(engine, engine, Cipher.from_file(settings.encryption_key_file))
    finally:
        await engine.dispose()


async def _change(settings: Settings, verb: str, period: int) -> None:
    logs.configure(settings.service, settings.log_level)
    try:
        url = settings.owner_url()
    except ValueError as error:
        _refuse(str(error), 2)
    try:
        async with open_database(settings, url) as db:
            await (archiving.detach if verb == "detach" else archiving.attach)(db, period)
    except (ArchiveRefused, DomainError) as error:
        _refuse(str(error), 1)
    sys.stdout.write(f"period {period} is {verb}ed\n")


def _refuse(text: str, status: int) -> NoReturn:
    sys.stderr.write(text + "\n")
    raise SystemExit(status)
