"""Every refusal of schedules and calendars, in the order in which they go before each other."""

from __future__ import annotations

import grpc

from florin.common.v1 import errors_pb2
from meshkit.errors import DomainError


class HolidayCalendarNotFound(DomainError):
    """No such calendar."""

    code = grpc.StatusCode.NOT_FOUND
    reason = errors_pb2.REASON_HOLIDAY_CALENDAR_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no {name}.", metadata={"name": name})


class ScheduleNeverRuns(DomainError):
    """The pattern, its end and the business days leave no day."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = errors_pb2.REASON_SCHEDULE_NEVER_RUNS

    def __init__(self, *, once: bool) -> None:
        if once:
            super().__init__(
                "The start date is no business day and would be skipped; choose another start_date or day_adjustment.",
                metadata={"field": "schedule.start_date"},
            )
            return
        super().__init__(
            "No day of the pattern, up to its end, is one on which the schedule would run; choose a later end_date or"
            " another day_adjustment.",
            metadata={"field": "schedule.end_date"},
        )


class ScheduleStartPassed(DomainError):
    """The first run would be due already."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = errors_pb2.REASON_SCHEDULE_START_PASSED

    def __init__(self, first_run_time: str) -> None:
        super().__init__(
            f"The first run would have been due at {first_run_time}; choose a later start_date or local_time.",
            metadata={"field": "schedule.start_date", "first_run_time": first_run_time},
        )


class ScheduleLimitReached(DomainError):
    """The customer has as many as it may have."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_SCHEDULE_LIMIT_REACHED
    definitive = False  # one may be cancelled

    def __init__(self, maximum: int) -> None:
        super().__init__(
            f"A customer may have {maximum} schedules that have not ended; cancel one.",
            metadata={"maximum": str(maximum)},
        )


class ScheduleExists(DomainError):
    """The chosen schedule_id belongs to a schedule of another request."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = errors_pb2.REASON_SCHEDULE_EXISTS

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} exists and was made by another request.", metadata={"name": name})


class ScheduleNotFound(DomainError):
    """No such schedule, or not the caller's: the same words for both."""

    code = grpc.StatusCode.NOT_FOUND
    reason = errors_pb2.REASON_SCHEDULE_NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no {name}.", metadata={"name": name})


class ScheduleEnded(DomainError):
    """It has ended."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = errors_pb2.REASON_SCHEDULE_ENDED
    definitive = False  # of one that is COMPLETED, a run under way may come to wait, and that can be cancelled

    def __init__(self, name: str, state: str) -> None:
        super().__init__(f"{name} is {state}; it can no longer be changed.", metadata={"name": name, "state": state})
