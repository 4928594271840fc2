"""`python -m <service>` serves; `… migrate` brings its schema up; `… replay` tells its events again."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import TypeVar

from meshkit import lifecycle, logs, migrations, outbox
from meshkit.bus import Bus
from meshkit.database import Database
from meshkit.settings import ServiceSettings, load

S = TypeVar("S", bound=ServiceSettings)

_BROKER_SECONDS = 10.0


def run[S: ServiceSettings](settings_class: type[S], build: lifecycle.Build[S]) -> None:
    """The whole main program of a service. Exits with 2 on wrong arguments or settings."""
    match sys.argv[1:]:
        case []:
            serve(load(settings_class), build)
        case ["migrate"]:
            settings = load(settings_class)
            migrations.upgrade(settings.owner_url(), settings.service, settings.role())
        case ["replay", start, end, *again_for] if len(again_for) <= 1:
            period = _moment(start), _moment(end)
            count = asyncio.run(replay(load(settings_class), *period, again_for[0] if again_for else ""))
            sys.stdout.write(f"{count} events published again\n")
        case _:
            sys.stderr.write(f"usage: python -m {settings_class.service} [migrate | replay START END [CONSUMER]]\n")
            raise SystemExit(2)


def serve[S: ServiceSettings](settings: S, build: lifecycle.Build[S]) -> None:
    """Serves on uvloop where there is one: it answers a quarter more calls than asyncio's own loop."""
    try:
        import uvloop
    except ImportError:  # not on this platform
        asyncio.run(lifecycle.serve(settings, build))
        return
    uvloop.run(lifecycle.serve(settings, build))


async def replay(settings: ServiceSettings, start: datetime, end: datetime, again_for: str) -> int:
    """Publishes the events of [start, end) again, as the service itself; gives their count.

    Consumers skip what they have seen; the one that `again_for` names handles everything once more.
    Raises Unavailable when the broker cannot be reached.
    """
    logs.configure(settings.service, settings.log_level)
    async with Database.open(settings) as db, Bus.open(settings) as bus:
        await bus.connected(_BROKER_SECONDS)
        return await outbox.replay(db, bus, start=start, end=end, again_for=again_for)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        sys.stderr.write(f"{text} is no time; write it as 2026-01-31T08:00:00Z\n")
        raise SystemExit(2) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
