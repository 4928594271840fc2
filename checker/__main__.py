"""`python -m checker` checks; `python -m checker grants SERVICE ROLE` prints what lets a role read for it."""

from __future__ import annotations

import asyncio
import sys

from checker import tables
from checker.app import serve
from checker.settings import SERVICES, Settings
from meshkit.process_settings import load

match sys.argv[1:]:
    case []:
        asyncio.run(serve(load(Settings)))
    case ["grants", service, role] if service in SERVICES:
        sys.stdout.write("".join(f"{statement};\n" for statement in tables.grants(service, role)))
    case _:
        sys.stderr.write(f"usage: python -m checker [grants {{{'|'.join(SERVICES)}}} ROLE]\n")
        raise SystemExit(2)
