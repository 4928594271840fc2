"""One pass: a batch of transfers goes through all its steps together, and the outcomes are written at once.

A pass may be run again for the same transfers, by anybody, at any time: every step is idempotent by its key, and an
outcome is written only over the version it was derived from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import grpc
from google.rpc import status_pb2
from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import clock, logs
from meshkit.database import Database
from meshkit.errors import DomainError, Failed, RecordedRefusal, Unavailable
from transactions import answers, errors, originals, saga, store
from transactions.model import State, Transfer, Verdict
from transactions.ports import Account, Decision, Ledger, Outcome, Screening
from transactions.saga import Action, Answer
from transactions.settings import Settings

_log = logs.get(__name__)
_FAILURES_MAX = 32  # of one pass: three transfers at fault among a thousand are found with fewer
_RETRY_SECONDS = 0.5
_RETRY_SECONDS_MAX = 4.0  # doubled up to this: what was down may have come back, and people wait
_FROZEN_SECONDS, _FROZEN_SECONDS_MAX = 10.0, 300.0  # until a ledger is asked again, should its event not come


@dataclass(slots=True)
class Progress:
    """What a pass learned so far."""

    changed: dict[tuple[str, str], Transfer] = field(default_factory=dict)
    """By place: the transfer in its new state."""
    stuck: bool = False
    """Whether a dependency did not answer."""
    frozen: list[Transfer] = field(default_factory=list)
    """Those that wait until a person unfreezes their ledger."""

    def wait(self, error: DomainError, count: int) -> None:
        """Notes that `count` transfers wait for a service. Raises the error again when one of them may be its cause."""
        invalid = isinstance(error, RecordedRefusal) and error.recorded_code is grpc.StatusCode.INVALID_ARGUMENT
        if invalid or isinstance(error, Failed):
            raise error
        self.stuck = True
        _log.warning("transfers wait", part=error.metadata.get("part"), cause=error.message, count=count)

    def settle(
        self, transfer: Transfer, answer: Answer, *, update_time: datetime | None = None, **changes: Any
    ) -> None:
        """Notes the new state that an answer leads to, and what else it changes."""
        self.changed[transfer.place] = transfer.changed(
            state=saga.after(transfer, answer),
            version=transfer.version + 1,
            update_time=update_time or clock.now(),
            **changes,
        )


class Passes:
    """Brings transfers forward."""

    def __init__(
        self,
        db: Database,
        ledger: Ledger,
        screening: Screening,
        settings: Settings,
        *,
        on_change: Callable[[Sequence[Transfer]], None] = lambda _transfers: None,
    ) -> None:
        self._db = db
        self._ledger = ledger
        self._screening = screening
        self._settings = settings
        self._on_change = on_change

    async def advance(self, transfers: Sequence[Transfer]) -> list[Transfer]:
        """Brings each transfer as far as it gets; gives them as they are then, in the same order."""
        present = await self._pass_apart(transfers)
        # A stand-in decision is noted durably before money moves: nobody could derive it again.
        noted = [
            now
            for before, now in zip(transfers, present, strict=True)
            if before.state is State.ACCEPTED and now.state is State.SCREENED and now.stand_in
        ]
        if not noted:
            return present
        posted = {transfer.place: transfer for transfer in await self.advance(noted)}
        return [posted.get(transfer.place, transfer) for transfer in present]

    async def _pass_apart(self, transfers: Sequence[Transfer]) -> list[Transfer]:
        """One pass; where it fails, or a service fails at it or calls it invalid, smaller ones, so that the transfer
        that is the cause holds up no others. What fails at everything is not tried with each of them."""
        present = {transfer.place: transfer for transfer in transfers}
        groups, failures = deque([list(transfers)]), 0
        while groups:
            group = groups.popleft()
            try:
                advanced = await self._pass(group)
            except Exception as error:  # whatever one transfer breaks, the others have to go on
                if isinstance(error, DomainError) and not isinstance(error, RecordedRefusal | Failed):
                    raise  # nothing is wrong with the transfers
                failures += 1
                if len(group) > 1 and failures <= _FAILURES_MAX:
                    middle = len(group) // 2
                    groups.extendleft((group[middle:], group[:middle]))
                else:
                    named = group[0].name if len(group) == 1 else ""
                    _log.error("transfers cannot be passed on", transfer=named, count=len(group), exc_info=error)
                continue
            present.update({transfer.place: transfer for transfer in advanced})
        return [present[transfer.place] for transfer in transfers]

    async def _pass(self, transfers: Sequence[Transfer]) -> list[Transfer]:
        """Each transfer's next action, in batches by action, then all outcomes in one transaction."""
        progress = Progress()
        by_action: dict[Action, list[Transfer]] = {}
        now = clock.now()
        for transfer in transfers:
            by_action.setdefault(saga.next_action(transfer, now), []).append(transfer)
        try:
            for transfer in await self._screen(by_action.get(Action.SCREEN, []), progress):
                by_action.setdefault(saga.when_allowed(transfer), []).append(transfer)
        except DomainError as error:
            progress.wait(error, len(by_action[Action.SCREEN]))
        for action, step in (
            (Action.POST, self._post),
            (Action.POST_HELD, self._post),
            (Action.AUTHORIZE, self._authorize),
            (Action.RELEASE, self._release),
            (Action.END, self._end),
        ):
            waiting = by_action.get(action, [])
            if not waiting:
                continue
            try:
                await step(waiting, progress)
            except DomainError as error:
                # That it was allowed is not noted: it may be posted and recorded already, not durably, and be told of
                # as completed under the version that the note would take. Compliance answers the same once more.
                progress.wait(error, len(waiting))
        return await self._record(transfers, progress)

    async def decline_cancelled(self, transfer: Transfer) -> Transfer:
        """Ends a transfer whose posting was made impossible; gives it as it is then."""
        refusal = errors.naming(errors.TransferCancelled().to_status(), transfer.name)
        if transfer.is_authorization:
            # A pass may be about to hold its amount: noted first, so that it ends whatever becomes of this process.
            await self._note_end(transfer)
        while not transfer.is_final:
            # A pass may record something between our read and our write; it cannot post any more.
            (released,) = await self._ledger.release([transfer])
            if not answers.given_back(transfer, released):
                return transfer
            if transfer.state is State.AUTHORIZED:  # a pass was faster; nothing is held now, so that is what ends
                return (await self.advance([replace(transfer, voided=True)]))[0]
            progress = Progress()
            progress.settle(transfer, Answer.REFUSED, refusal=refusal)
            (transfer,) = await self._record([transfer], progress)
        return transfer

    async def _note_end(self, authorization: Transfer) -> None:
        async def void(conn: AsyncConnection) -> None:
            await store.void(conn, *authorization.place)

        await self._db.run(authorization.tenant, void)

    async def _screen(self, transfers: list[Transfer], progress: Progress) -> list[Transfer]:
        """Resolves and screens; gives those that are allowed, and may go on at once."""
        if not transfers:
            return []
        accounts = await self._ledger.resolve(
            [(t.tenant, reference) for t in transfers for reference in (t.debit_account, t.credit_account)]
        )
        screened: list[tuple[Transfer, Account, Account]] = []
        for transfer in transfers:
            refusal, sides = answers.admit(transfer, accounts)
            if refusal is not None:
                progress.settle(transfer, Answer.REFUSED, refusal=errors.naming(refusal, transfer.name))
            elif sides is not None:
                screened.append((answers.resolved(transfer, *sides), *sides))
        outcomes = await self._decide(screened)
        review: list[Transfer] = []
        allowed: list[Transfer] = []
        for (transfer, _, _), outcome in zip(screened, outcomes, strict=True):
            known = transfer.changed(decision=outcome.decision_name, case=outcome.case)
            match outcome.decision:
                case Decision.ALLOW if outcome.decision_name == STAND_IN:
                    progress.settle(known, Answer.ALLOWED, stand_in=True)
                case Decision.ALLOW:
                    allowed.append(known)
                case Decision.REVIEW:
                    review.append(known)
                case Decision.DECLINE:
                    refusal = outcome.refusal or errors.PaymentDeclined().to_status()
                    progress.settle(known, Answer.REFUSED, refusal=answers.refusal(refusal, known))
                case None:
                    progress.stuck = True
        await self._hold(review, Answer.HELD, progress)
        return allowed

    async def _decide(self, screened: Sequence[tuple[Transfer, Account, Account]]) -> list[Outcome]:
        """Compliance's decisions, or stand-in ones where the deployment wants them while compliance is down."""
        if not screened:
            return []
        try:
            return await self._screening.screen(screened)
        except Unavailable as error:
            # A payment that compliance fails at is not one that it could not be asked about.
            if self._settings.screening_posture == "closed" or isinstance(error, Failed):
                raise
        _log.warning("stand-in decisions", count=len(screened))
        most = self._settings.stand_in_maximum
        return [
            Outcome(decision=Decision.ALLOW, decision_name=STAND_IN)
            if transfer.amount <= most.get(transfer.currency, 0)
            else Outcome()
            for transfer, _, _ in screened
        ]

    async def _hold(self, transfers: list[Transfer], answer: Answer, progress: Progress) -> None:
        """Holds amounts; `answer` is what is learned of those that are held."""
        if not transfers:
            return
        for transfer, outcome in zip(transfers, await self._ledger.hold(transfers), strict=True):
            if outcome.is_frozen:
                progress.frozen.append(transfer)
            elif outcome.refusal is not None:
                progress.settle(transfer, Answer.REFUSED, refusal=answers.refusal(outcome.refusal, transfer))
            else:
                progress.settle(transfer, answer, customers=answers.viewers(transfer, outcome))

    async def _authorize(self, transfers: list[Transfer], progress: Progress) -> None:
        await self._hold(transfers, Answer.AUTHORIZED, progress)

    async def _end(self, transfers: list[Transfer], progress: Progress) -> None:
        """Gives back what is left of authorizations. No capture takes anything from then on; one that did, and is not
        recorded yet, is recorded first."""
        released = await self._ledger.release(transfers)
        keys = [transfer.place for transfer in transfers]
        tenants = {transfer.tenant for transfer in transfers}

        async def read_captures(conn: AsyncConnection) -> list[Transfer]:
            return await store.live_captures(conn, self._db.cipher, keys)

        async def read_present(conn: AsyncConnection) -> tuple[list[Transfer], list[Transfer]]:
            # Together: a database that lost what was not on disk knows neither that a capture ended nor that it took
            # anything. In this order: one that ends meanwhile is seen in what it took.
            return await read_captures(conn), await store.present(conn, self._db.cipher, keys)

        captures = await self._db.run(tenants, read_captures, read_only=True)
        if captures:
            await self.advance(captures)
        live, found = await self._db.run(tenants, read_present, read_only=True)
        open_ = {(capture.tenant, capture.capture_of) for capture in live}
        progress.stuck = progress.stuck or bool(open_)
        present = {t.place: t for t in found}
        for transfer, outcome in zip(transfers, released, strict=True):
            now = present[transfer.place]
            if now.state is not State.AUTHORIZED or now.place in open_:
                continue
            # A hold that was consumed by captures that say that they left some of it: told, and ended all the same.
            if answers.given_back(now, outcome) or now.captured:
                progress.settle(now, saga.end_of(now))

    async def _post(self, transfers: list[Transfer], progress: Progress) -> None:
        stand_ins = [transfer for transfer in transfers if transfer.stand_in]
        if stand_ins:
            # Compliance may have wanted a review whose answer, or whose hold's answer, was lost: a journal that knows
            # of no hold would leave it behind, or find its own funds kept back.
            await self._ledger.release(stand_ins)
        outcomes = await self._ledger.post(transfers)
        refused: list[tuple[Transfer, status_pb2.Status]] = []
        for transfer, outcome in zip(transfers, outcomes, strict=True):
            if outcome.refusal is None:
                progress.settle(
                    transfer,
                    Answer.POSTED,
                    journal=outcome.journal,
                    debit_account=outcome.accounts[0],
                    credit_account=outcome.accounts[1],
                    customers=answers.viewers(transfer, outcome),
                    # The ledger's own time: told again after a crash, the event is the same.
                    update_time=outcome.create_time,
                    effective_time=outcome.effective_time,
                )
            elif outcome.is_frozen:
                progress.frozen.append(transfer)
            elif transfer.state is State.IN_REVIEW:
                refused.append((transfer, answers.refusal(outcome.refusal, transfer)))
            else:
                progress.settle(transfer, Answer.REFUSED, refusal=answers.refusal(outcome.refusal, transfer))
        if refused:
            released = await self._ledger.release([transfer for transfer, _ in refused])
            for (transfer, refusal), outcome in zip(refused, released, strict=True):
                if answers.given_back(transfer, outcome):
                    progress.settle(transfer, Answer.REFUSED, refusal=refusal)

    async def _release(self, transfers: list[Transfer], progress: Progress) -> None:
        for transfer, outcome in zip(transfers, await self._ledger.release(transfers), strict=True):
            if not answers.given_back(transfer, outcome):
                continue
            refusal: DomainError = errors.PaymentDeclined()
            if transfer.verdict is Verdict.EXPIRED:
                refusal = errors.ReviewExpired()
            elif transfer.verdict is not Verdict.REJECTED:
                refusal = errors.AuthorizationEnded(transfer.name, State.EXPIRED)
            progress.settle(transfer, Answer.REFUSED, refusal=errors.naming(refusal.to_status(), transfer.name))

    async def _record(self, transfers: Sequence[Transfer], progress: Progress) -> list[Transfer]:
        """Writes the outcomes; where somebody was faster, theirs is the present state."""
        changed = list(progress.changed.values())
        keys = [transfer.place for transfer in transfers]
        # A completed transfer is derived again from its journal, to the same event; a refusal's time is not, nor is
        # what follows where compliance may be away by then and a stand-in decision take another way.
        derivable = self._settings.screening_posture == "closed"
        durable = not derivable or any(transfer.state is not State.COMPLETED for transfer in changed)
        lost: list[Transfer] = []
        others: list[Transfer] = []

        async def work(conn: AsyncConnection) -> None:
            written = await store.record_outcomes(conn, changed) if changed else set()
            # A completed reversal or capture changes its original in the same transaction.
            others[:] = await originals.record(conn, self._db.cipher, [t for t in changed if t.place in written])
            missing = [t.place for t in changed if t.place not in written]
            lost[:] = await store.present(conn, self._db.cipher, missing) if missing else []
            waiting = [t for t in transfers if t.place not in progress.changed and not t.is_final]
            if waiting and progress.stuck:
                await store.postpone(conn, waiting, _RETRY_SECONDS, _RETRY_SECONDS_MAX)
            if progress.frozen:
                await store.postpone(conn, progress.frozen, _FROZEN_SECONDS, _FROZEN_SECONDS_MAX)

        if changed or progress.stuck or progress.frozen:
            await self._db.run({transfer.tenant for transfer in transfers}, work, durable=durable)
        present = {t.place: t for t in (*transfers, *changed, *lost)}
        self._on_change([*changed, *lost, *others])
        return [present[key] for key in keys]


STAND_IN = "stand-in"
"""Stands for the decision's name while compliance did not make one."""
