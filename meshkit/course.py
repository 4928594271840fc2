"""How far a sandbox's time is ahead, as a file says it; read by its processes and written by `florin clock`."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from meshkit import clock

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Course:
    """How far the bank's time is ahead of the machine's: `before` until `at`, a moment of the machine's, and `after`
    from then on. So all who know it in time change over in the same moment."""

    version: int
    before: timedelta
    after: timedelta
    at: datetime

    def ahead(self, moment: datetime) -> timedelta:
        """How far the bank's time is ahead at a moment of the machine's."""
        return self.after if moment >= self.at else self.before

    @property
    def is_settled(self) -> bool:
        """Whether nothing is to change any more."""
        return self.before == self.after

    def settled(self) -> Course:
        """The course after its change."""
        return replace(self, before=self.after)

    def text(self) -> str:
        """As the file has it."""
        values = {
            "version": self.version,
            "before_us": self.before // _MICROSECOND,
            "after_us": self.after // _MICROSECOND,
            "at_us": clock.microseconds(self.at),
        }
        return json.dumps(values)


def course_of(text: str) -> Course:
    """A file's content. Raises ValueError where it is none, or would turn time back."""
    try:
        values = json.loads(text)
        course = Course(
            version=int(values["version"]),
            before=timedelta(microseconds=int(values["before_us"])),
            after=timedelta(microseconds=int(values["after_us"])),
            at=clock.from_microseconds(int(values["at_us"])),
        )
    except (KeyError, TypeError, OverflowError):
        raise ValueError("it is no course of a clock") from None
    if not timedelta() <= course.before <= course.after:
        raise ValueError("it would turn time back")
    return course
