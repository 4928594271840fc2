"""Makes schedules for tests; nothing here is read by the product."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, date, datetime, time
from typing import Any

from meshkit.identity import Principal
from tests.unit.transactions.making import TELLER
from transactions.recurrence import BusinessDays, Recurrence, Timing, Unit
from transactions.schedule import CARRIED_SCOPES, Payment, Schedule, planned

MONDAY = datetime(2026, 3, 2, 4, tzinfo=UTC)
"""An hour before the first run of `schedule`."""
DAILY = Recurrence(Unit.DAILY)

_numbers = itertools.count(1)


def timing(recurrence: Recurrence = DAILY, **changes: Any) -> Timing:
    """Every day at 06:00 in Berlin, from Monday, 2 March 2026 on."""
    values: dict[str, Any] = {
        "start_date": date(2026, 3, 2),
        "local_time": time(6),
        "time_zone": "Europe/Berlin",
        "recurrence": recurrence,
        **changes,
    }
    return Timing(**values)


def schedule(
    principal: Principal = TELLER, *, when: Timing | None = None, amount: int = 1000, **changes: Any
) -> Schedule:
    """A schedule of 10.00 EUR a day from accounts/a to accounts/b, with what comes next; each call is another one."""
    values: dict[str, Any] = {
        "id": f"s-{next(_numbers)}",
        "principal": replace(principal, scopes=principal.scopes & CARRIED_SCOPES),
        "fingerprint": b"f" * 32,
        "debit_account": "accounts/a",
        "credit_account": "accounts/b",
        "currency": "EUR",
        "payment": Payment(amount, "Brauerei Nord", "E2E-1", "Rent"),
        "timing": when or timing(),
        "create_time": MONDAY,
        "update_time": MONDAY,
        "customers": (principal.customer,) if principal.customer else (),
        **changes,
    }
    return planned(Schedule(**values), BusinessDays())
