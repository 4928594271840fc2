"""`python -m <service>` serves; `python -m <service> migrate` brings its schema up. Nothing else starts a service."""

from __future__ import annotations

import asyncio
import sys
from typing import TypeVar

from meshkit import lifecycle, migrations
from meshkit.settings import ServiceSettings, load

S = TypeVar("S", bound=ServiceSettings)


def run[S: ServiceSettings](settings_class: type[S], build: lifecycle.Build[S]) -> None:
    """The whole main program of a service. Exits with 2 on wrong arguments or settings."""
    arguments = sys.argv[1:]
    if arguments not in ([], ["migrate"]):
        sys.stderr.write(f"usage: python -m {settings_class.service} [migrate]\n")
        raise SystemExit(2)
    settings = load(settings_class)
    if arguments == ["migrate"]:
        migrations.upgrade(settings.owner_url(), settings.service, settings.role())
        return
    serve(settings, build)


def serve[S: ServiceSettings](settings: S, build: lifecycle.Build[S]) -> None:
    """Serves on uvloop where there is one: it answers a quarter more calls than asyncio's own loop."""
    try:
        import uvloop
    except ImportError:  # not on this platform
        asyncio.run(lifecycle.serve(settings, build))
        return
    uvloop.run(lifecycle.serve(settings, build))
