"""`python -m <service>` serves; `… migrate` brings its schema up, `… await-schema` waits until somebody did;
`… replay` tells its events again."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError

from meshkit import lifecycle, logs, migrations, outbox, parts
from meshkit.bus import Bus
from meshkit.database import Database
from meshkit.settings import ServiceSettings, load

S = TypeVar("S", bound=ServiceSettings)

_BROKER_SECONDS = 10.0
_USAGE = "[migrate | await-schema SECONDS | replay START END [CONSUMER]]"
_SCHEMA_SECONDS = 0.5
_SCHEMA_TIMEOUT_SECONDS = 5.0


def run[S: ServiceSettings](
    settings_class: type[S],
    build: lifecycle.Build[S],
    commands: Mapping[str, Callable[[Sequence[str]], None]] | None = None,
) -> None:
    """The whole main program of a service; `commands` are its own, given what follows their names. Exits with 2 on
    wrong arguments or settings."""
    own = commands or {}
    match sys.argv[1:]:
        case []:
            serve(load(settings_class), build)
        case ["migrate"]:
            settings = load(settings_class)
            migrations.upgrade(settings.owner_url(), settings.service, settings.role())
        case ["await-schema", seconds] if seconds.isdigit():
            asyncio.run(await_schema(load(settings_class), int(seconds)))
        case ["replay", start, end, *again_for] if len(again_for) <= 1:
            period = _moment(start), _moment(end)
            count = asyncio.run(replay(load(settings_class), *period, again_for[0] if again_for else ""))
            sys.stdout.write(f"{count} events published again\n")
        case [name, *rest] if name in own:
            own[name](rest)
        case _:
            more = "".join(f" | {name} …" for name in own)
            sys.stderr.write(f"usage: python -m {settings_class.service} {_USAGE.replace(']]', f']{more}]')}\n")
            raise SystemExit(2)


def serve[S: ServiceSettings](settings: S, build: lifecycle.Build[S]) -> None:
    """Serves on uvloop where there is one: it answers a quarter more calls than asyncio's own loop."""
    try:
        import uvloop
    except ImportError:  # not on this platform
        asyncio.run(lifecycle.serve(settings, build))
        return
    uvloop.run(lifecycle.serve(settings, build))


async def await_schema(settings: ServiceSettings, seconds: float) -> None:
    """Returns when the database has the schema that this code is written for, as the readiness check sees it.

    Says what is missing, and exits with 1 when it still is after `seconds`.
    """
    deadline = time.monotonic() + seconds
    said = ""
    async with Database.open(settings) as db:
        check = parts.checks(settings, db)["database"]
        while True:
            try:
                await asyncio.wait_for(check(), _SCHEMA_TIMEOUT_SECONDS)
                return
            except (SQLAlchemyError, OSError, RuntimeError) as error:  # a TimeoutError is an OSError
                missing = f"{type(error).__name__}: {error}".partition("\n")[0]
            if missing != said:
                said = missing
                sys.stderr.write(f"{settings.service}: no usable schema yet ({missing})\n")
            if time.monotonic() > deadline:
                sys.stderr.write(f"{settings.service}: gave up after {seconds:g} s\n")
                raise SystemExit(1)
            await asyncio.sleep(_SCHEMA_SECONDS)


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
