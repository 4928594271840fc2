"""Books deposits: to whom they are for, or to the suspense account, or from there to whom two people said.

A deposit's step is one transfer, the same however often it is asked for; only when that is known to be declined is
there another one. So whatever dies, no money is credited twice and none is left out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from google.rpc import status_pb2
from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import clock, iban, idempotency, logs
from meshkit.database import ALL_TENANTS, Database
from meshkit.errors import (
    Contention,
    DeadlineExceeded,
    DeadlineTooShort,
    DomainError,
    Overloaded,
    RequestIdReused,
    Unavailable,
)
from transactions import deposit_store, errors, rail_model, rail_store, store
from transactions.model import AccountType, State, Transfer
from transactions.orders import Declined, Orders
from transactions.ports import Ledger
from transactions.rail_accounts import RailAccounts
from transactions.rail_errors import RailAccountMissing
from transactions.rail_model import (
    Deposit,
    DepositState,
    ExceptionKind,
    ExceptionState,
    Parties,
    RailException,
)
from transactions.rails.port import Entry, Notice
from transactions.settings import Settings

_TAKE = 200
_LEASE_SECONDS = 15.0
_STEP_SECONDS = 10.0
_AGAIN_SECONDS, _AGAIN_SECONDS_MAX = 0.5, 60.0
"""After a look at which a deposit got no further: doubled each time; a review may take days."""
_UNDECIDED = (Unavailable, Overloaded, DeadlineTooShort, DeadlineExceeded, Contention, RequestIdReused)
"""After which a step's transfer may still move money; the last says that another worker asked for it otherwise."""
_log = logs.get(__name__)


async def take(db: Database, tenant: str, message_id: str, entries: Sequence[Entry]) -> None:
    """Records the deposits of a message's entries, each once. An entry that was taken before and says something else
    now is for a person."""

    async def work(conn: AsyncConnection) -> None:
        await deposit_store.lock_message(conn, tenant, message_id)
        known = await deposit_store.known_entries(conn, tenant, message_id, [entry.reference for entry in entries])
        new: list[Deposit] = []
        changed: list[RailException] = []
        for entry in entries:
            said = rail_model.entry_fingerprint(entry)
            if entry.reference not in known:
                known[entry.reference] = said
                new += _deposits(tenant, message_id, entry, said)
            elif known[entry.reference] != said:
                detail = "an entry that was booked before is told of with other contents"
                kind = ExceptionKind.DEPOSIT_CHANGED
                changed.append(_exception(tenant, kind, message_id, entry.reference, detail, said.hex()))
        if new:
            await deposit_store.insert(conn, db.cipher, new)
        await rail_store.open_exceptions(conn, changed)

    await db.run(tenant, work)


async def note(db: Database, tenant: str, message_id: str, notices: Sequence[Notice]) -> None:
    """Opens an exception for what only a person can deal with."""
    kind = ExceptionKind.CREDIT_REVERSED
    found = [_exception(tenant, kind, message_id, one.reference, one.detail) for one in notices]
    await db.run(tenant, lambda conn: rail_store.open_exceptions(conn, found))


def rejected_file(tenant: str, digest: str, name: str, refusal: str) -> RailException:
    """The exception of a file of which nothing has an effect."""
    found = _exception(tenant, ExceptionKind.FILE_REJECTED, "", name, refusal)
    return replace(found, id=rail_model.exception_id(tenant, ExceptionKind.FILE_REJECTED, digest))


@dataclass(frozen=True, slots=True)
class _Refused:
    """Why no transfer is asked for: it could not be credited."""

    status: status_pb2.Status | None
    """None where no account was even looked at."""


class Deposits:
    """The worker of one replica."""

    def __init__(self, db: Database, orders: Orders, ledger: Ledger, settings: Settings) -> None:
        self._db = db
        self._orders = orders
        self._ledger = ledger
        self._accounts = RailAccounts(ledger, settings)

    async def work_once(self) -> int:
        """Brings the deposits that are due forward; gives how many there were."""

        async def due(conn: AsyncConnection) -> list[Deposit]:
            return await deposit_store.take_due(conn, self._db.cipher, limit=_TAKE, lease_seconds=_LEASE_SECONDS)

        taken = await self._db.run(ALL_TENANTS, due)
        recorded = await self._recorded(taken)
        asked: list[tuple[Deposit, Transfer]] = []
        for deposit in taken:
            try:
                step = recorded.get(deposit.transfer) or await self._step(deposit)
            except RailAccountMissing as error:
                _log.error("a deposit cannot be booked", deposit=deposit.name, cause=error.message)
                await self._record(deposit, None, error.to_status())
                continue
            except _UNDECIDED as error:
                _log.warning("a deposit waits", deposit=deposit.name, cause=error.message)
                await self._record(deposit, None, None)
                continue
            if isinstance(step, _Refused):
                await self._record(deposit, None, step.status, declined=True)
            else:
                asked.append((deposit, step))
        await self._ask(asked)
        return len(taken)

    async def _recorded(self, deposits: Sequence[Deposit]) -> dict[str, Transfer]:
        """The transfers of the present steps that were asked for before. They stand as they are, whatever accounts
        would be asked for now: there is one of a step."""
        if not deposits:
            return {}
        asked = [(one.tenant, rail_model.bank_key(one.tenant, one.request_id), one.transfer) for one in deposits]

        async def read(conn: AsyncConnection) -> list[Transfer]:
            return await store.find_by_request(conn, self._db.cipher, asked)

        found = await self._db.run({one.tenant for one in deposits}, read, read_only=True)
        return {one.id: one for one in found if rail_model.is_banks(one)}

    async def _ask(self, asked: Sequence[tuple[Deposit, Transfer]]) -> None:
        """Asks for the transfers of deposits, and writes what they came to. Where something breaks that is no refusal,
        for halves of them, so that the deposit at fault holds up no others; it is asked for again after its lease."""
        if not asked:
            return
        try:
            await self._ask_all(asked)
        except Exception as error:
            if isinstance(error, DomainError):
                raise  # everybody's: the queue is full, the database away
            if len(asked) == 1:
                _log.error("a deposit cannot be booked", deposit=asked[0][0].name, exc_info=error)
                return
            middle = len(asked) // 2
            await self._ask(asked[:middle])
            await self._ask(asked[middle:])

    async def _ask_all(self, asked: Sequence[tuple[Deposit, Transfer]]) -> None:
        deadline = time.monotonic() + _STEP_SECONDS
        answers = await self._orders.create_batch([transfer for _, transfer in asked], deadline, bulk=True)
        for (deposit, _), answer in zip(asked, answers, strict=True):
            transfer = answer.transfer if isinstance(answer, Declined) else answer
            if isinstance(transfer, _UNDECIDED):
                await self._record(deposit, None, None)
            elif isinstance(transfer, DomainError):
                await self._record(deposit, None, transfer.to_status(), declined=True)
            elif transfer.state is State.DECLINED:
                await self._record(deposit, None, transfer.refusal, declined=True)
            else:
                await self._record(deposit, transfer if transfer.is_final else None, None)

    async def _step(self, deposit: Deposit) -> Transfer | _Refused:
        """The transfer that a deposit needs in its state. Raises RailAccountMissing, Unavailable."""
        tenant, currency = deposit.tenant, deposit.currency
        settlement = await self._accounts.settlement(tenant, currency)
        suspense = await self._accounts.suspense(tenant, currency)
        if deposit.state is DepositState.SUSPENDING:
            return rail_model.transfer_of_deposit(deposit, settlement.name, suspense.name, (), clock.now())
        if deposit.state is DepositState.ASSIGNING:
            reference, debit = deposit.target, suspense.name
        else:
            number = deposit.parties.creditor_iban
            reference, debit = f"iban:{number}", settlement.name
            if deposit.concern:
                return _Refused(None)
            if not iban.is_valid(number):
                return _Refused(errors.AccountNotFound("that the message names").to_status())
        account = (await self._ledger.resolve([(tenant, reference)])).get((tenant, reference))
        if account is None:
            return _Refused(errors.AccountNotFound("that the message names").to_status())
        if account.type is not AccountType.CUSTOMER:
            why = "deposits are credited to customer accounts"
            return _Refused(errors.AccountTypeWrong(account.name, account.type, why).to_status())
        return rail_model.transfer_of_deposit(deposit, debit, account.name, account.customers, clock.now())

    async def _record(
        self, taken: Deposit, done: Transfer | None, refusal: status_pb2.Status | None, *, declined: bool = False
    ) -> None:
        """Writes what a step came to: that it moved the money, that it was declined for good, or nothing yet."""

        async def work(conn: AsyncConnection) -> None:
            deposit = await deposit_store.get(conn, self._db.cipher, taken.tenant, taken.id, lock=True)
            if deposit is None or (deposit.version, deposit.step) != (taken.version, taken.step):
                return  # another worker was faster, after this one's lease
            if done is not None:
                await self._moved(conn, deposit, done)
            elif declined:
                await self._declined(conn, deposit, refusal)
            else:
                seconds = min(_AGAIN_SECONDS * 2**deposit.attempts, _AGAIN_SECONDS_MAX)
                waiting = replace(deposit, attempts=min(deposit.attempts + 1, 10), refusal=refusal or deposit.refusal)
                await deposit_store.postpone(conn, waiting, seconds)

        await self._db.run(taken.tenant, work)

    async def _moved(self, conn: AsyncConnection, deposit: Deposit, done: Transfer) -> None:
        moment = clock.now()
        if deposit.state is DepositState.SUSPENDING:
            suspended = deposit.into(DepositState.SUSPENDED, moment, suspense_transfer=done.id, step=deposit.step + 1)
            await deposit_store.save(conn, suspended)
            await rail_store.open_exceptions(conn, [_suspended(suspended)])
            return
        if deposit.state is DepositState.ASSIGNING:
            await self._resolve(conn, deposit, ExceptionState.RESOLVED)
        credited = deposit.into(
            DepositState.CREDITED,
            moment,
            credit_transfer=done.id,
            credit_account=done.credit_account,
            customers=done.customers,
            refusal=None,
        )
        await deposit_store.save(conn, credited)

    async def _declined(self, conn: AsyncConnection, deposit: Deposit, refusal: status_pb2.Status | None) -> None:
        moment, step = clock.now(), deposit.step + 1
        match deposit.state:
            case DepositState.RECEIVED:
                changed = deposit.into(DepositState.SUSPENDING, moment, refusal=refusal, step=step)
                await deposit_store.save(conn, changed)
            case DepositState.ASSIGNING:
                await self._resolve(conn, deposit, ExceptionState.OPEN)
                changed = deposit.into(DepositState.SUSPENDED, moment, refusal=refusal, step=step, target="")
                await deposit_store.save(conn, changed)
            case _:
                # It is not dropped: it is tried again until what is in the way is mended.
                _log.error("a deposit cannot be booked to the suspense account", deposit=deposit.name)
                seconds = min(_AGAIN_SECONDS * 2**deposit.attempts, _AGAIN_SECONDS_MAX)
                waiting = replace(deposit, attempts=min(deposit.attempts + 1, 10), refusal=refusal, step=step)
                await deposit_store.postpone(conn, waiting, seconds)

    @staticmethod
    async def _resolve(conn: AsyncConnection, deposit: Deposit, state: ExceptionState) -> None:
        id_ = rail_model.exception_id(deposit.tenant, ExceptionKind.DEPOSIT_SUSPENDED, deposit.id)
        exception = await rail_store.get_exception(conn, deposit.tenant, id_, lock=True)
        if exception is None or exception.state is not ExceptionState.RESOLVING:
            raise RuntimeError(f"{deposit.name} is being assigned, and its exception does not say so")
        await rail_store.save_exception(conn, exception.into(state, clock.now()))


def _deposits(tenant: str, message_id: str, entry: Entry, fingerprint: bytes) -> list[Deposit]:
    moment = clock.now()
    return [
        Deposit(
            tenant=tenant,
            id=str(idempotency.uuid7()),  # of nothing that others know: its transfers' ids follow from it
            message_id=message_id,
            entry=entry.reference,
            number=number,
            fingerprint=fingerprint,
            currency=credit.currency,
            amount=credit.amount,
            parties=Parties(
                creditor_iban=credit.creditor_iban,
                debtor_name=credit.debtor_name,
                debtor_iban=credit.debtor_iban,
                remittance=credit.remittance,
            ),
            end_to_end_id=credit.end_to_end_id,
            create_time=moment,
            update_time=moment,
            concern=credit.concern,
        )
        for number, credit in enumerate(entry.credits, 1)
    ]


def _exception(
    tenant: str, kind: ExceptionKind, message_id: str, reference: str, detail: str, *more: str
) -> RailException:
    moment = clock.now()
    return RailException(
        tenant=tenant,
        id=rail_model.exception_id(tenant, kind, message_id, reference, *more),
        kind=kind,
        resource="",
        message_id=message_id,
        reference=reference,
        detail=detail,
        create_time=moment,
        update_time=moment,
    )


def _suspended(deposit: Deposit) -> RailException:
    detail = deposit.concern or "the account that the message names could not be credited"
    moment = deposit.update_time
    return RailException(
        tenant=deposit.tenant,
        id=rail_model.exception_id(deposit.tenant, ExceptionKind.DEPOSIT_SUSPENDED, deposit.id),
        kind=ExceptionKind.DEPOSIT_SUSPENDED,
        resource=deposit.name,
        message_id=deposit.message_id,
        reference=deposit.entry,
        detail=detail,
        create_time=moment,
        update_time=moment,
    )
