"""Read by Python at its start where this folder is on its path: lets the process die at the points of crashes.py."""

from __future__ import annotations

from tests.support import crashes

crashes.install()
