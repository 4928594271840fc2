"""`python -m checker` checks; `… grant [SECONDS]` gives its roles their rights, as the owners of the schemas."""

from __future__ import annotations

import asyncio
import sys

from checker import grants
from checker.app import serve
from checker.settings import Settings
from meshkit import logs
from meshkit.process_settings import load

match sys.argv[1:]:
    case []:
        asyncio.run(serve(load(Settings)))
    case ["grant", *seconds] if len(seconds) <= 1 and all(one.isdigit() for one in seconds):
        settings = load(Settings)
        logs.configure(settings.service, settings.log_level)
        try:
            grants.grant(settings, float(seconds[0]) if seconds else 0.0)
        except grants.Refused as refused:
            sys.exit(str(refused))
    case _:
        sys.stderr.write("usage: python -m checker [grant [SECONDS]]\n")
        raise SystemExit(2)
