"""The checker's work: turns of readings, findings told, ledgers frozen, until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import psycopg

from accounts.signing import VerifyingKeys
from checker import metrics
from checker.findings import Violation
from checker.readings import Behind, Lost, Readings
from checker.settings import Settings
from checker.standing import Standing
from checker.sweeps import Sweeps, Turn
from meshkit import clock, logs
from meshkit.errors import DomainError

_LEAD_SECONDS = 1.0
"""How often it is asked whether this is the checker that works."""
_FAILED_SECONDS = 1.0
_UNSENT_SECONDS = 60.0
"""A freeze that could not be asked for is asked for again for so long; after it, what stands is found anew."""
_MARGIN_SECONDS = 5.0
_CURRENCY = re.compile("[A-Z]{3}")
_log = logs.get(__name__)

Place = tuple[str, str]
"""A tenant and a currency, which is empty for all of them."""


class Accounts(Protocol):
    """What the checker needs from accounts."""

    async def freeze(
        self, tenant: str, currency: str, violations: Sequence[Violation], found_time: datetime, ended_freezes: int
    ) -> tuple[str, int]:
        """Freezes a ledger; gives the freeze's name, empty for none, and how many of the findings were new."""


@dataclass(frozen=True, slots=True)
class Unsent:
    """What a ledger is to be frozen for."""

    violations: Mapping[tuple[str, str, str], Violation]
    """By their keys."""
    found_time: datetime
    ended_freezes: int
    """How many of its freezes had ended before these were looked at."""
    until: float
    next_try: float = 0.0


class Worker:
    """Works while it leads; another checker stands by."""

    def __init__(self, settings: Settings, accounts: Accounts, keys: VerifyingKeys | None) -> None:
        self._settings = settings
        self._accounts = accounts
        self._keys = keys
        self._readings = Readings(settings)
        self._sweeps = Sweeps(self._readings, settings, keys)
        self._lead_due = 0.0
        self._standing = Standing()
        self._unsent: dict[Place, Unsent] = {}
        self._failure = "no reading yet"
        self.leading = False
        self.margin_seconds = settings.settle_seconds + settings.confirm_seconds + _MARGIN_SECONDS
        """What was seen last so long before the last sweep began that did not see it stands no longer."""

    @property
    def whole_since(self) -> float:
        """Everything has been gone through since this moment of time.monotonic(); 0 if it was not yet."""
        return self._sweeps.whole_since()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Works while the block runs; ends after the reading under way."""
        stop = asyncio.Event()
        task = asyncio.create_task(self._run(stop), name="checker")
        try:
            yield
        finally:
            stop.set()
            await asyncio.wait({task})
            await asyncio.to_thread(self._readings.close)
            task.result()

    async def check_databases(self) -> None:
        """Raises when the last turn could not read."""
        if self._failure:
            raise RuntimeError(self._failure)

    async def _run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                rest = await self._turn()
            except Exception as error:  # noqa: BLE001 - it is logged and counted, not ready is told, and it begins anew
                metrics.FAILURES.labels(type(error).__name__).inc()
                _log.error("a turn failed", exc_info=True)
                self._failure = f"a turn failed: {type(error).__name__}"
                self._sweeps = Sweeps(self._readings, self._settings, self._keys)
                rest = _FAILED_SECONDS
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), rest)

    async def _turn(self) -> float:
        """One turn; gives how long to rest after it, in seconds."""
        began = time.monotonic()
        try:
            if began >= self._lead_due:
                self._lead(await asyncio.to_thread(self._readings.lead))
                self._lead_due = began + _LEAD_SECONDS
            if not self.leading:
                self._tell_failure("")
                return _LEAD_SECONDS
            done = await asyncio.to_thread(self._sweeps.turn)
        except Lost as error:
            # What was seen in part is of the past of another server, perhaps: nothing is concluded from it.
            metrics.FAILURES.labels("Lost").inc()
            self._tell_failure(f"a connection was lost: {_cause(error)}")
            self._sweeps = Sweeps(self._readings, self._settings, self._keys)
            return _FAILED_SECONDS
        except Behind:
            metrics.FAILURES.labels("Behind").inc()
            self._tell_failure("a replica of a database does not follow its primary")
            return _FAILED_SECONDS
        except psycopg.Error as error:
            metrics.FAILURES.labels(type(error).__name__).inc()
            self._tell_failure(f"{type(error).__name__}: {_cause(error)}")
            return _FAILED_SECONDS
        self._tell_failure("")
        self._note(done)
        await self._freeze()
        now = time.monotonic()
        # Whatever it costs: the busier the databases are, the longer it rests.
        rest = (now - began) * (1 / self._settings.busy_share - 1)
        return max(rest, min(self._sweeps.next_due() - now, _LEAD_SECONDS))

    def _lead(self, leading: bool) -> None:
        if leading == self.leading:
            return
        self.leading = leading
        metrics.LEADING.set(leading)
        _log.info("checks" if leading else "stands by")
        if not leading:
            # Whoever leads now tells what stands.
            self._sweeps = Sweeps(self._readings, self._settings, self._keys)
            self._standing = Standing()
            self._standing.tell()

    def _tell_failure(self, failure: str) -> None:
        if failure and failure != self._failure:
            _log.warning("the databases cannot be read", cause=failure)
        self._failure = failure

    def _note(self, done: Turn) -> None:
        now = time.monotonic()
        for violation in self._standing.add(done.confirmed, now):
            _log.error(
                "an invariant does not hold",
                invariant=violation.invariant,
                tenant=violation.tenant,
                currency=violation.currency,
                object=violation.object,
                sentence=violation.sentence.removeprefix(":").strip(),
            )
        self._standing.forget(self.whole_since - self.margin_seconds)
        self._standing.tell()
        for place, found in self._freezing(done.confirmed).items():
            ended, before = done.ended_freezes.get(place, 0), self._unsent.get(place)
            still = before.violations if before is not None and before.ended_freezes == ended else {}
            self._unsent[place] = Unsent({**still, **found}, clock.now(), ended, now + _UNSENT_SECONDS)

    def _freezing(self, confirmed: Iterable[Violation]) -> Mapping[Place, dict[tuple[str, str, str], Violation]]:
        """The violations that freeze a ledger, by tenant and currency, then by key."""
        found: dict[Place, dict[tuple[str, str, str], Violation]] = {}
        for violation in confirmed:
            freezes = violation.invariant in self._settings.freezing_invariants and not violation.is_on_its_way
            if freezes and violation.tenant:
                # Who changed a row may have written anything for its currency.
                currency = violation.currency if _CURRENCY.fullmatch(violation.currency) else ""
                found.setdefault((violation.tenant, currency), {})[violation.key] = violation
        return found

    async def _freeze(self) -> None:
        """Asks for the freezes that are not asked for yet, all at once: none waits for another one's answer."""
        now = time.monotonic()
        due = {place: unsent for place, unsent in self._unsent.items() if now >= unsent.next_try}
        for place, error in zip(due, await asyncio.gather(*(self._ask(*one) for one in due.items())), strict=True):
            if error is None or now > due[place].until:
                del self._unsent[place]
            else:
                self._unsent[place] = replace(due[place], next_try=now + _FAILED_SECONDS)

    async def _ask(self, place: Place, unsent: Unsent) -> DomainError | None:
        """Asks for a freeze; gives what came in between."""
        tenant, currency = place
        try:
            violations = list(unsent.violations.values())
            name, fresh = await self._accounts.freeze(
                tenant, currency, violations, unsent.found_time, unsent.ended_freezes
            )
        except DomainError as error:
            metrics.FREEZES.labels("failed").inc()
            _log.warning("a ledger could not be frozen", tenant=tenant, currency=currency, cause=error.message)
            return error
        metrics.FREEZES.labels("asked").inc()
        if fresh:
            _log.error("a ledger is frozen", tenant=tenant, currency=currency, freeze=name, new_findings=fresh)
        return None


def _cause(error: Exception) -> str:
    """What names a statement's objects; an error's detail would quote rows."""
    return str(error).partition("DETAIL:")[0].strip()
