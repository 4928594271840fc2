"""Goes through tables, logs and new journals again and again, a small piece at a time; what may be wrong is looked at
twice.

Its state is in memory alone: a checker that was restarted begins its sweeps anew.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from accounts.signing import VerifyingKeys
from checker import judgements, metrics, sealed_log
from checker.findings import Violation
from checker.judgements import Look, Place, Verdict
from checker.log_check import Report
from checker.readings import TOOK_TOO_LONG, Readings
from checker.sealed_log import LogWalk
from checker.settings import Settings
from checker.tables import JOURNALS, SWEPT, TRANSFERS, Key, Rows, Table

_WAITING_MAX = 2000
_LOOKS_MAX, _ROWS_MAX = 4, 500  # of one turn; a slice that is larger is the last one


@dataclass(slots=True)
class Sweep:
    """A table that is gone through."""

    table: Table
    began: float = 0.0
    after: Key | None = None
    rows: int = 0
    is_whole: bool = True
    """Whether the one under way left nothing out."""
    whole_since: float = 0.0
    """When the last sweep began that came to the end, and left nothing out; 0 for none."""

    def is_due(self, now: float, every_seconds: float) -> bool:
        """Whether a piece of it can be judged: one is under way, or it is time for another."""
        return self.after is not None or now >= self.began + every_seconds


@dataclass(slots=True)
class Waiting:
    """What one reading found, until the second one."""

    due: float
    look: Look
    found: Sequence[Violation] | None
    """None where the first reading is still to be made."""
    seconds: float
    """How long after the first reading the second is made."""


@dataclass(slots=True)
class Turn:
    """What came of one turn."""

    rows: int = 0
    """What was read of tables and logs that are gone through."""
    confirmed: list[Violation] = field(default_factory=list)
    ended_freezes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """How many freezes had ended, by tenant and currency, before anything was confirmed."""


class Sweeps:
    """The pieces, one a turn; for one thread."""

    def __init__(self, readings: Readings, settings: Settings, keys: VerifyingKeys | None) -> None:
        self._readings = readings
        self._settings = settings
        self._keys = keys
        self._sweeps = deque(Sweep(table) for table in SWEPT)
        self._waiting: list[Waiting] = []
        self._place: Place | None = None
        self._tail_due = 0.0
        self._rights_due, self._rights_whole = 0.0, 0.0
        self._log_due, self._log_began, self._log_whole = 0.0, 0.0, 0.0
        self._walk: LogWalk | None = None
        self._log_tenant = ""

    def turn(self) -> Turn:
        """Makes the readings that are due, and one piece of a sweep. Raises psycopg.Error, Behind."""
        now, done = time.monotonic(), Turn()
        due = sorted((one for one in self._waiting if one.due <= now), key=lambda one: one.due)
        if any(waiting.found for waiting in due[:_LOOKS_MAX]):
            done.ended_freezes = judgements.ended_freezes(self._readings)
        for waiting in due[:_LOOKS_MAX]:
            self._waiting.remove(waiting)
            self._second(waiting, done)
        if now >= self._tail_due:
            self._tail_due = now + self._settings.tail_seconds
            self._tail()
        if now >= self._rights_due:
            self._rights_due = now + self._settings.sweep_seconds
            self._first(partial(judgements.rights_of_roles, self._readings, self._settings))
            self._rights_whole = now
        for _ in range(len(self._sweeps)):
            if not self._piece(now, done) or done.rows >= _ROWS_MAX:
                break
        self._log(now, done)
        metrics.WAITING.set(len(self._waiting))
        return done

    def whole_since(self) -> float:
        """Everything has been gone through once since this moment of time.monotonic(), but for what waits for its
        second reading; 0 if it was not yet."""
        parts = [self._log_whole, self._rights_whole, *(sweep.whole_since for sweep in self._sweeps)]
        return min(parts)

    def next_due(self) -> float:
        """When there is something to do again, on time.monotonic()."""
        log_due = 0.0 if self._walk is not None or self._log_tenant else self._log_due
        sweeps = (
            0.0 if sweep.after is not None else sweep.began + self._settings.sweep_seconds for sweep in self._sweeps
        )
        return min(self._tail_due, self._rights_due, log_due, *sweeps, *(one.due for one in self._waiting))

    def _first(self, look: Look) -> Verdict:
        """Makes a first reading; what is wrong in it is looked at again a little later."""
        verdict = look()
        for invariant, number in verdict.checked.items():
            metrics.checked(invariant, number)
        if verdict.wrong:
            self._add(Waiting(self._in(self._settings.confirm_seconds), look, verdict.wrong, 0))
        return verdict

    def _second(self, waiting: Waiting, done: Turn) -> None:
        """Makes a second reading, or a first one that was put off."""
        verdict = waiting.look()
        found = [*verdict.wrong, *verdict.suspects]
        if waiting.found is None:
            for invariant, number in verdict.checked.items():
                metrics.checked(invariant, number)
            if found:
                self._add(Waiting(self._in(waiting.seconds), waiting.look, found, 0))
            return
        done.confirmed += judgements.same(waiting.found, found)

    def _wait(self, look: Look, seconds: float, *, put_off: float = 0.0) -> None:
        """Has a first reading be made, and `seconds` after it the second."""
        self._add(Waiting(self._in(put_off), look, None, seconds))

    def _add(self, waiting: Waiting) -> None:
        if len(self._waiting) < _WAITING_MAX:  # what is wrong is found again by the next sweep
            self._waiting.append(waiting)

    def _in(self, seconds: float) -> float:
        return time.monotonic() + seconds

    def _piece(self, now: float, done: Turn) -> bool:
        """The next piece of the table whose turn it is; whether there was one."""
        for _ in range(len(self._sweeps)):
            sweep = self._sweeps[0]
            self._sweeps.rotate(-1)
            if sweep.is_due(now, self._settings.sweep_seconds):
                break
        else:
            return False
        if sweep.after is None:
            sweep.began, sweep.rows, sweep.is_whole = now, 0, True
        rows, count = self._bounded(sweep)
        after = rows.upto if count >= sweep.table.at_once or (count and sweep.table.next_key) else None
        if count:
            try:
                self._first(partial(judgements.rows_of, self._readings, self._settings, rows))
            except TOOK_TOO_LONG:
                # Not at once again: what took too long now would again, and load the database with nothing to show.
                sweep.after, sweep.is_whole = after, False
                raise
            if sweep.table in (TRANSFERS, JOURNALS):
                look = partial(judgements.transfers_of, self._readings, self._settings, rows)
                self._wait(look, self._settings.settle_seconds)
        for invariant in judgements.invariants_of(sweep.table):
            metrics.checked(invariant, count)
        sweep.rows += count
        done.rows += count
        sweep.after = after
        metrics.SWEEP_ROWS.labels(sweep.table.id).set(sweep.rows)
        if sweep.after is None:
            sweep.whole_since = sweep.began if sweep.is_whole else sweep.whole_since
            metrics.SWEEP_LAST_ROWS.labels(sweep.table.id).set(sweep.rows)
            metrics.SWEEP_LAST_SECONDS.labels(sweep.table.id).set(time.monotonic() - sweep.began)
            metrics.SWEEP_LAST_END.labels(sweep.table.id).set(time.time())
        return True

    def _bounded(self, sweep: Sweep) -> tuple[Rows, int]:
        with self._readings.reading(sweep.table.service) as connections:
            return Rows(sweep.table, after=sweep.after).bounded(connections[sweep.table.service])

    def _tail(self) -> None:
        """What was posted since the last time: judged at once, and compared with other services once it has settled."""
        horizon, new = judgements.added(self._readings, self._place, self._settings.tail_journals_max)
        if self._place is None or int(horizon.xid) < int(self._place.xid):
            self._place = horizon  # at the start; or the server counts anew, as after a restore from a dump
            return
        if new is None:
            return
        self._place = new.upto
        if new.count == self._settings.tail_journals_max:
            self._place = horizon  # the rest is the sweeps': what comes next is looked at in time
            metrics.TAIL_SKIPPED.inc()
        self._first(partial(judgements.journals_added, self._readings, new))
        look = partial(judgements.transfers_added, self._readings, self._settings, new)
        self._wait(look, self._settings.settle_seconds, put_off=self._settings.settle_seconds)

    def _log(self, now: float, done: Turn) -> None:
        """The next page of the sealed log whose turn it is."""
        if self._walk is None:
            if not self._log_tenant and now < self._log_due:
                return
            if not self._log_tenant:
                self._log_due, self._log_began = now + self._settings.sweep_seconds, now
            with self._readings.reading("accounts") as connections:
                tenant = sealed_log.next_tenant(connections["accounts"], self._log_tenant)
            if tenant is None:
                self._log_tenant, self._log_whole = "", self._log_began
                metrics.checked("INV-9", 0)
                return
            self._log_tenant, self._walk = tenant, LogWalk(tenant, self._keys, Report())
        walk, before = self._walk, self._walk.copy()
        self._walk = before  # should the reading fail
        verdict = judgements.log_page(self._readings, walk)
        metrics.checked("INV-9", verdict.checked["INV-9"])
        done.rows += verdict.checked["INV-9"]
        if verdict.wrong:
            look = partial(_page_again, self._readings, before)
            self._add(Waiting(self._in(self._settings.confirm_seconds), look, verdict.wrong, 0))
        self._walk = None if walk.is_at_end else walk


def _page_again(readings: Readings, before: LogWalk) -> Verdict:
    return judgements.log_page(readings, before.copy())
