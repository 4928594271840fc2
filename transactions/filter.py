"""What the lists of this service can be filtered by; the grammar is the kit's."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from meshkit.filters import EQUAL, ORDERED, Fields, integer, text, time
from transactions.model import State
from transactions.schedule import ScheduleState


def _state(states: type[StrEnum]) -> Callable[[str], str]:
    def read(value: str) -> str:
        try:
            return states(value).value
        except ValueError:
            raise ValueError(f"{value} is no state; there are {', '.join(states)}") from None

    return read


def _calendar(value: str) -> str:
    return text(value).removeprefix("holidayCalendars/")


TRANSFERS: Fields = {
    "state": (_state(State), EQUAL),
    "debit_account": (text, EQUAL),
    "credit_account": (text, EQUAL),
    "request_id": (text, EQUAL),
    "end_to_end_id": (text, EQUAL),
    "amount.minor_units": (integer, ORDERED),
    "amount.currency_code": (text, EQUAL),
    "create_time": (time, ORDERED),
}
SCHEDULES: Fields = {
    "state": (_state(ScheduleState), EQUAL),
    "debit_account": (text, EQUAL),
    "credit_account": (text, EQUAL),
    "end_to_end_id": (text, EQUAL),
    "holiday_calendar": (_calendar, EQUAL),
    "amount.minor_units": (integer, ORDERED),
    "amount.currency_code": (text, EQUAL),
    "create_time": (time, ORDERED),
    "next_run_time": (time, ORDERED),
}
