"""From a payment file to the requests it stands for: a pure mapping, it must not call anybody or look at a clock.

The request_id is made of the message's, the payment information's and the payment's own identification, so that the
same file twice is the same requests: an EndToEndId that comes again with the same payload is replayed, with another
payload it is refused.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import protovalidate

from florin.common.v1 import money_pb2
from florin.transactions.v1 import transfer_service_pb2
from meshkit import money
from meshkit.errors import CurrencyUnknown
from transactions.payments.pain001 import Instruction, Payment, PaymentFile

BATCH_MAX = 1000
NOT_PROVIDED = "NOTPROVIDED"
"""What the standard has a payer write who gives no EndToEndId."""
_UNKNOWN_CURRENCY_PLACES = 2
_SEPARATOR = "/"


@dataclass(frozen=True, slots=True)
class PlannedPayment:
    """A payment of the file, and either its request or why none can be made of it."""

    number: int
    """Its place in the file, from 1."""
    instruction: Instruction
    payment: Payment
    request: transfer_service_pb2.CreateTransferRequest | None
    refusal: str = ""
    """A sentence; empty when there is a request. The reason is REQUEST_INVALID: it breaks a rule of the contract."""
    note: str = ""
    """What was assumed, for people."""
    repeats: bool = False
    """Whether an earlier payment of the file has the same request_id."""


def plan(file: PaymentFile, *, today: date) -> tuple[PlannedPayment, ...]:
    """What to send for a file, in its order. `today` is the bank's business day."""
    planned: list[PlannedPayment] = []
    seen: set[str] = set()
    for instruction in file.instructions:
        for index, payment in enumerate(instruction.payments, start=1):
            key = request_id(file.message_id, instruction.id, payment.end_to_end_id, index)
            item = planned_payment(len(planned) + 1, instruction, payment, request_id=key, today=today)
            key = item.request.request_id if item.request is not None else ""
            if key in seen:
                item = PlannedPayment(
                    item.number, instruction, payment, item.request, item.refusal, item.note, repeats=True
                )
            if key:
                seen.add(key)
            planned.append(item)
    return tuple(planned)


def batches(planned: Iterable[PlannedPayment], size: int) -> tuple[tuple[PlannedPayment, ...], ...]:
    """What can be sent, in batches in the order of the file; no batch holds one request_id twice.

    So which of two payments with one EndToEndId comes first is the file's decision alone. Raises ValueError for a
    size outside 1 to 1,000.
    """
    if not 1 <= size <= BATCH_MAX:
        raise ValueError(f"a batch has 1 to {BATCH_MAX} payments, not {size}")
    done: list[tuple[PlannedPayment, ...]] = []
    batch: list[PlannedPayment] = []
    keys: set[str] = set()
    for item in planned:
        if item.request is None:
            continue
        if len(batch) == size or item.request.request_id in keys:
            done.append(tuple(batch))
            batch, keys = [], set()
        batch.append(item)
        keys.add(item.request.request_id)
    if batch:
        done.append(tuple(batch))
    return tuple(done)


def request_id(message_id: str, instruction_id: str, end_to_end_id: str, index: int) -> str:
    """The key of a payment, at most 128 characters; readable unless an identification holds the separator.

    Without an EndToEndId (NOTPROVIDED) the payment's place within its payment information stands for it.
    """
    own = f"{NOT_PROVIDED}#{index}" if end_to_end_id == NOT_PROVIDED else end_to_end_id
    parts = (message_id, instruction_id, own)
    if any(_SEPARATOR in part for part in parts):
        # "a/b" + "c" and "a" + "b/c" are two payments. No readable key looks like this one: those hold separators.
        digest = hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()
        return f"pain001-{digest}"
    return _SEPARATOR.join(parts)


def minor_units(amount: Decimal, currency_code: str) -> tuple[int, str]:
    """An amount in minor units, exactly, and a note on what was assumed.

    A currency that is not in the table is taken with two decimals: the payment is sent all the same, so that the
    service, which alone may say so, refuses it. Raises ValueError when the amount has more decimals than the currency.
    """
    try:
        return money.parse(f"{amount:f}", currency_code), ""
    except CurrencyUnknown:
        pass
    scaled = amount.scaleb(_UNKNOWN_CURRENCY_PLACES)
    if scaled != scaled.to_integral_value() or scaled > money.INT64_MAX:
        raise ValueError(f"{amount:f} {currency_code} is no amount with two decimals, and the currency is unknown")
    return int(scaled), f"{currency_code} is unknown here: taken with two decimals"


def planned_payment(
    number: int, instruction: Instruction, payment: Payment, *, request_id: str, today: date
) -> PlannedPayment:
    """What to send for one payment, under the request_id that is given to it."""

    def refused(sentence: str) -> PlannedPayment:
        return PlannedPayment(number, instruction, payment, None, refusal=sentence)

    if instruction.method != "TRF":
        return refused(f"the payment method {instruction.method} is no transfer")
    if instruction.execution_date > today:
        return refused(f"its execution date, {instruction.execution_date}, is in the future")
    if payment.amount is None:
        return refused("it gives an equivalent amount in another currency, and no exchange is offered")
    if not payment.creditor_account:
        return refused("it names no creditor account")
    try:
        minor, note = minor_units(payment.amount, payment.currency_code)
    except ValueError as error:
        return refused(str(error))
    request = transfer_service_pb2.CreateTransferRequest(
        debit_account=instruction.debtor_account,
        credit_account=payment.creditor_account,
        amount=money_pb2.Money(currency_code=payment.currency_code, minor_units=minor),
        creditor_name=payment.creditor_name,
        end_to_end_id=payment.end_to_end_id,
        remittance=payment.remittance,
        request_id=request_id,
    )
    # The contract's own rules, before sending: one payment that breaks them must not spoil its batch.
    broken = violations(request)
    if broken:
        return refused("; ".join(broken))
    return PlannedPayment(number, instruction, payment, request, note=note)


@functools.cache
def _validator() -> protovalidate.Validator:
    return protovalidate.Validator()


def violations(request: transfer_service_pb2.CreateTransferRequest) -> Sequence[str]:
    """Every rule of the contract that a request breaks, each with its field."""
    return [_sentence(violation.proto) for violation in _validator().collect_violations(request)]


def _sentence(violation: Any) -> str:
    # A rule about a whole message names no field.
    path = ".".join(element.field_name for element in violation.field.elements) if violation.field else ""
    return f"{path}: {violation.message}" if path else str(violation.message)
