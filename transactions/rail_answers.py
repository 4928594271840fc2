"""What becomes of withdrawals after they were recorded: their transfers' ends, and what the rail answers.

Each function may be run again, by anybody, for the same things: a withdrawal's row is locked, and its state decides.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit import clock, idempotency
from meshkit.cipher import Cipher
from meshkit.database import ALL_TENANTS, Database
from transactions import deposit_store, operations, rail_model, rail_store, withdrawal_store
from transactions.model import State, Transfer, follower
from transactions.orders import Order, Orders
from transactions.rail_model import (
    Deposit,
    DepositState,
    ExceptionKind,
    Message,
    RailException,
    Reaction,
    Withdrawal,
    WithdrawalState,
)
from transactions.rails.port import Answer, Verdict

_FOLLOW = 200
"""Withdrawals that one transaction follows."""
_KINDS = {
    Reaction.UNKNOWN: (
        ExceptionKind.ANSWER_UNKNOWN,
        "the rail answers a payment that was not sent to it in that message, with that amount",
    ),
    Reaction.CONTRADICTS: (ExceptionKind.ANSWER_CONTRADICTS, "the rail's answer contradicts its earlier final one"),
    Reaction.AMBIGUOUS: (
        ExceptionKind.ANSWER_AMBIGUOUS,
        "the rail rejects the payment as the copy of another, which may be its own and paid",
    ),
}


@dataclass(slots=True)
class _Found:
    """What a transaction came to."""

    settled: list[Withdrawal] = field(default_factory=list)
    """Withdrawals in new states."""
    noted: list[Withdrawal] = field(default_factory=list)
    """Those of which only something was learned."""
    reversals: list[Transfer] = field(default_factory=list)
    exceptions: list[RailException] = field(default_factory=list)


async def follow(db: Database, tenants: str = ALL_TENANTS, *, withdrawal_id: str | None = None) -> int:
    """Brings withdrawals on whose transfers have ended; gives how many. `withdrawal_id`: that one alone."""

    async def work(conn: AsyncConnection) -> int:
        moment = clock.now()
        booked = await withdrawal_store.followable(
            conn, db.cipher, state=WithdrawalState.ACCEPTED, limit=_FOLLOW, id_=withdrawal_id
        )
        changed = []
        for withdrawal, state, refusal, customers, debit_account in booked:
            known = replace(withdrawal, customers=customers, debit_account=debit_account)
            if state is State.DECLINED:
                changed.append(known.into(WithdrawalState.DECLINED, moment, refusal=refusal))
            else:
                changed.append(known.into(WithdrawalState.BOOKED, moment))
        returned = await withdrawal_store.followable(
            conn, db.cipher, state=WithdrawalState.REJECTED, limit=_FOLLOW, id_=withdrawal_id
        )
        kept: list[Deposit] = []
        for withdrawal, state, refusal, _, _ in returned:
            if state is not State.DECLINED:
                changed.append(withdrawal.into(WithdrawalState.RETURNED, moment))
                continue
            deposit = _kept(withdrawal, moment)
            kept.append(replace(deposit, refusal=refusal))
            changed.append(withdrawal.into(WithdrawalState.SUSPENDED, moment, deposit=deposit.id))
        if changed:
            await withdrawal_store.save(conn, changed)
        if kept:
            await deposit_store.insert(conn, db.cipher, kept)
        return len(changed)

    return await db.run(tenants, work)


async def note_sent(db: Database, message: Message) -> None:
    """Notes that a message was handed over, unless an answer told so before."""

    async def work(conn: AsyncConnection) -> None:
        ids = await withdrawal_store.ids_of_message(conn, message.tenant, message.id)
        found = await withdrawal_store.locked(conn, db.cipher, message.tenant, ids)
        moment = clock.now()
        sent = [_sent(one, moment) for one in found.values() if one.state is WithdrawalState.BOOKED]
        if sent:
            await withdrawal_store.save(conn, sent)
        await withdrawal_store.end_message(conn, message.tenant, message.id, moment)

    await db.run(message.tenant, work)


async def apply(db: Database, orders: Orders, tenant: str, answers: Sequence[Answer], *, message_id: str) -> None:
    """Does what answers say, which stand in the message `message_id`, each of a payment of its own."""

    async def work(conn: AsyncConnection) -> list[Transfer]:
        found = _Found()
        ids = {answer.payment_id: rail_model.withdrawal_id(answer.payment_id) for answer in answers}
        withdrawals = await withdrawal_store.locked(conn, db.cipher, tenant, [id_ for id_ in ids.values() if id_])
        moment = clock.now()
        sent = [
            _sent(withdrawals[id_], moment)
            for answer in answers
            if (id_ := ids[answer.payment_id]) in withdrawals
            and withdrawals[id_].state is WithdrawalState.BOOKED
            and rail_model.reaction(withdrawals[id_], answer) is not Reaction.UNKNOWN
        ]
        if sent:
            # It is answered, so it was sent, also where whoever sent it died before that was noted.
            await withdrawal_store.save(conn, sent)
            withdrawals.update({one.id: one for one in sent})
            for message in sorted({one.message for one in sent}):
                await _note_message(conn, db.cipher, tenant, message, withdrawals, moment)
        for answer in answers:
            await _answered(conn, orders, tenant, answer, withdrawals.get(ids[answer.payment_id]), message_id, found)
        if found.settled:
            await withdrawal_store.save(conn, found.settled)
        if found.noted:
            await withdrawal_store.note(conn, found.noted)
        await rail_store.open_exceptions(conn, found.exceptions)
        return found.reversals

    for reversal in await db.run(tenant, work):
        orders.hand_on([Order(reversal, bulk=True, recorded=reversal)])


async def expanded(db: Database, tenant: str, answers: Sequence[Answer]) -> list[Answer]:
    """Answers, each once, with those about messages as a whole put down as one for each payment that is not answered by
    itself. Where a message may lie there twice, its rejection as a whole may be the copy's."""
    # Ours are written in one way alone, so that one payment is not answered twice at once.
    found = [
        replace(one, payment_id=rail_model.payment_id(rail_model.withdrawal_id(one.payment_id)) or one.payment_id)
        for one in answers
        if one.payment_id
    ]
    named = {one.payment_id for one in found}
    for whole in (one for one in answers if not one.payment_id):
        answer = whole
        read = functools.partial(withdrawal_store.ids_of_message, tenant=tenant, message=answer.message_id)
        payments = [rail_model.payment_id(id_) for id_ in await db.run(tenant, read, read_only=True)]
        twice = functools.partial(withdrawal_store.may_lie_there_twice, tenant=tenant, message=answer.message_id)
        if answer.verdict is Verdict.REJECTED and await db.run(tenant, twice, read_only=True):
            answer = replace(answer, verdict=Verdict.DUPLICATE)  # whatever the code says: it may be of the copy
        if not payments:
            found.append(answer)  # of none of ours: a person has to look
        found += [replace(answer, payment_id=payment) for payment in payments if payment not in named]
    return list(dict.fromkeys(found))


def lots(answers: Sequence[Answer], size: int) -> Iterator[list[Answer]]:
    """Answers in lots of at most `size`, none of which has a payment twice: each counts after those before it."""
    lot: list[Answer] = []
    named: set[str] = set()
    for answer in answers:
        if len(lot) == size or answer.payment_id in named:
            yield lot
            lot, named = [], set()
        lot.append(answer)
        named |= {answer.payment_id} - {""}
    if lot:
        yield lot


async def _note_message(
    conn: AsyncConnection,
    cipher: Cipher,
    tenant: str,
    message: str,
    known: dict[str, Withdrawal],
    moment: datetime,
) -> None:
    """Notes the others of a message as sent too, and the message itself."""
    ids = [id_ for id_ in await withdrawal_store.ids_of_message(conn, tenant, message) if id_ not in known]
    others = await withdrawal_store.locked(conn, cipher, tenant, ids)
    sent = [_sent(one, moment) for one in others.values() if one.state is WithdrawalState.BOOKED]
    if sent:
        await withdrawal_store.save(conn, sent)
    await withdrawal_store.end_message(conn, tenant, message, moment)


async def _answered(
    conn: AsyncConnection,
    orders: Orders,
    tenant: str,
    answer: Answer,
    withdrawal: Withdrawal | None,
    message_id: str,
    found: _Found,
) -> None:
    moment = clock.now()
    reaction = Reaction.UNKNOWN
    if withdrawal is not None:
        reaction = rail_model.reaction(withdrawal, answer)
    if reaction in _KINDS:
        kind, detail = _KINDS[reaction]
        resource = withdrawal.name if withdrawal is not None and reaction is not Reaction.UNKNOWN else ""
        reference = answer.payment_id or answer.message_id
        found.exceptions.append(
            RailException(
                tenant=tenant,
                id=rail_model.exception_id(tenant, kind, message_id, reference, answer.status, answer.reason),
                kind=kind,
                resource=resource,
                message_id=message_id,
                reference=reference,
                detail=f"{detail}: {answer.status} {answer.reason}".rstrip(),
                create_time=moment,
                update_time=moment,
            )
        )
    if withdrawal is None:
        return
    said = replace(withdrawal, rail_status=answer.status, rail_reason=answer.reason)
    match reaction:
        case Reaction.NOTE | Reaction.AMBIGUOUS:
            found.noted.append(said)
        case Reaction.SETTLE:
            found.settled.append(said.into(WithdrawalState.SETTLED, moment))
        case Reaction.GIVE_BACK:
            reversal = await _give_back(conn, orders, withdrawal)
            found.reversals.append(reversal)
            found.settled.append(said.into(WithdrawalState.REJECTED, moment, reversal=reversal.id))
        case _:
            pass  # nothing new, or an exception that changes nothing


async def _give_back(conn: AsyncConnection, orders: Orders, withdrawal: Withdrawal) -> Transfer:
    """Records the transfer that moves everything back, once: its request is the withdrawal's."""
    key = rail_model.bank_key(withdrawal.tenant, f"{withdrawal.name}/return")
    reversal = follower(
        # Nothing that follows from the withdrawal: its payer knows that, and may choose the ids of transfers.
        id_=str(idempotency.uuid7()),
        principal=rail_model.bank(withdrawal.tenant),
        request_key=key,
        request_id=f"{withdrawal.name}/return",
        fingerprint=hashlib.sha256(withdrawal.name.encode()).digest(),
        moment=clock.now(),
        reversal_of=withdrawal.id,
    )

    async def make(original: Transfer | None) -> Transfer:
        if original is None or original.state is not State.COMPLETED:
            raise RuntimeError(f"{withdrawal.name} was sent, and its transfer is not completed")
        return operations.undoing(original, reversal, return_fee=True)

    recorded, _ = await orders.record_follower(conn, withdrawal.id, reversal, make)
    return recorded


def _sent(withdrawal: Withdrawal, moment: datetime) -> Withdrawal:
    return withdrawal.into(WithdrawalState.SENT, moment, send_time=moment)


def _kept(withdrawal: Withdrawal, moment: datetime) -> Deposit:
    """What could not be given back, as money that a person has to assign."""
    return Deposit(
        tenant=withdrawal.tenant,
        id=str(idempotency.uuid7()),
        message_id="",
        entry=withdrawal.id,
        number=0,
        fingerprint=b"",
        currency=withdrawal.currency,
        amount=withdrawal.amount,
        parties=replace(
            withdrawal.parties,
            debtor_name=withdrawal.parties.creditor_name,
            debtor_iban=withdrawal.parties.creditor_iban,
            creditor_name=withdrawal.parties.debtor_name,
            creditor_iban=withdrawal.parties.debtor_iban,
        ),
        end_to_end_id=withdrawal.end_to_end_id,
        create_time=moment,
        update_time=moment,
        concern="the account that paid did not take it back",
        withdrawal=withdrawal.id,
        state=DepositState.SUSPENDING,
    )
