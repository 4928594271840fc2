"""Those who ask: what they asked for, and what they were told, which nobody may take back."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from florin.common.v1 import money_pb2
from florin.transactions.v1 import transfer_service_pb2 as pb
from meshkit.errors import DomainError, RecordedRefusal, reason_name, reason_of
from tests.simulation.bank import ABROAD, TELLER, Bank, Replica, call_of
from tests.simulation.oracle import Wrong
from transactions import messages
from transactions.model import FINAL, Expected, State, Transfer
from transactions.orders import Declined

METHOD = "/florin.transactions.v1.TransferService/"
_AFTER = {State.COMPLETED: (State.COMPLETED, State.REVERSED)}
"""What a final state can still become."""


@dataclass(slots=True)
class Asked:
    """A request, which may be sent again."""

    kind: str
    request: Any
    name: str
    """The transfer that it makes or is about."""
    expected: Expected | None = None
    """What its state token holds."""


@dataclass
class Callers:
    """All callers of one bank."""

    bank: Bank
    asked: list[Asked] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    """The names of what was asked for, recorded or not, in the order of asking."""
    told: dict[str, tuple[State, str]] = field(default_factory=dict)
    """Transfer → the final state, and the reason, that somebody was told."""

    def pay(
        self, replica: Replica, debit: str, credit: str, amount: int, *, valid_for: float = 0.0, promised: bool = False
    ) -> None:
        """CreateTransfer; with `valid_for`, in seconds, of an authorization; `promised` where the payer holds a state
        token of the account as it is now."""
        asked = self._new(debit, credit, amount, valid_for)
        if promised:
            there = self.bank.ledger.accounts["demo", debit]
            asked.expected = Expected(there.sequence, there.available)
            self.bank.oracle.promised[asked.name] = self.bank.oracle.seen(f"accounts/{debit}")
        self._send(replica, asked)

    def exchange(self, replica: Replica, debit: str, pick: int) -> None:
        """CreateTransfer by one of the quotes that there are, whether it was used or is over or not."""
        if not self.bank.offers:
            return
        offer = self.bank.offers[-1 - pick % len(self.bank.offers)]
        asked = self._new(debit, ABROAD, offer.amount, 0.0, offer.quote)
        self.bank.oracle.offers[asked.name] = offer
        self._send(replica, asked)

    def pay_many(self, replica: Replica, payments: list[tuple[str, str, int]]) -> None:
        """BatchCreateTransfers."""
        asked = [self._new(debit, credit, amount, 0.0) for debit, credit, amount in payments]
        orders = [self._order(one) for one in asked]
        deadline = self.bank.world.loop.time() + 5

        async def work() -> None:
            for answer in await replica.transfers.orders.create_batch(orders, deadline):
                self._note(answer)

        self.bank.world.spawn(replica.process, work())

    def capture(self, replica: Replica, name: str, amount: int, *, final: bool) -> None:
        """CaptureTransfer; an amount of 0 is all that is left."""
        request = pb.CaptureTransferRequest(name=name, request_id=self._request_id(), final=final)
        if amount:
            request.amount.CopyFrom(_money(amount))
        self._send(replica, Asked("CaptureTransfer", request, name))

    def void(self, replica: Replica, name: str) -> None:
        """VoidTransfer."""
        self._send(
            replica, Asked("VoidTransfer", pb.VoidTransferRequest(name=name, request_id=self._request_id()), name)
        )

    def cancel(self, replica: Replica, name: str) -> None:
        """CancelTransfer."""
        self._send(
            replica, Asked("CancelTransfer", pb.CancelTransferRequest(name=name, request_id=self._request_id()), name)
        )

    def reverse(self, replica: Replica, name: str, amount: int, *, return_fee: bool = False) -> None:
        """ReverseTransfer; an amount of 0 is all of it."""
        request = pb.ReverseTransferRequest(
            name=name, reason="wrong", request_id=self._request_id(), return_fee=return_fee
        )
        if amount:
            request.amount.CopyFrom(_money(amount))
        self._send(replica, Asked("ReverseTransfer", request, name))

    def again(self, replica: Replica, pick: int) -> None:
        """The same request once more, at any replica, whatever became of it before."""
        if self.asked:
            self._send(replica, self.asked[pick % len(self.asked)], known=True)

    def _request_id(self) -> str:
        return f"request-{len(self.asked)}-{len(self.made)}"

    def _new(self, debit: str, credit: str, amount: int, valid_for: float, quote: str = "") -> Asked:
        request = pb.CreateTransferRequest(
            debit_account=f"accounts/{debit}",
            credit_account=f"accounts/{credit}",
            amount=_money(amount),
            request_id=self._request_id(),
            authorize_only=bool(valid_for),
            quote=f"quotes/{quote}" if quote else "",
        )
        if valid_for:
            request.valid_for.FromTimedelta(timedelta(seconds=valid_for))
        asked = Asked("CreateTransfer", request, "")
        asked.name = self._order(asked).name
        self.made.append(asked.name)
        return asked

    def _order(self, asked: Asked) -> Transfer:
        request = asked.request
        order = messages.order(request, TELLER, request.request_id.encode(), request.request_id)
        return order if asked.expected is None else order.changed(expected=asked.expected)

    def _send(self, replica: Replica, asked: Asked, *, known: bool = False) -> None:
        if not known:
            self.asked.append(asked)
        call = call_of(TELLER, self.bank, METHOD + asked.kind, asked.request.request_id)
        id_ = asked.name.removeprefix("transfers/")
        transfers = replica.transfers
        work: Coroutine[Any, Any, Transfer]
        match asked.kind:
            case "CreateTransfer":
                work = transfers.orders.create(self._order(asked), call.deadline)
            case "CaptureTransfer":
                order = messages.capture(asked.request, call, id_)
                self._expect(order.name)
                work = transfers.authorizations.capture(order, call)
            case "ReverseTransfer":
                order = messages.reversal(asked.request, call, id_)
                self._expect(order.name)
                if asked.request.return_fee:
                    self.bank.oracle.returning.add(order.name)
                work = transfers.reverse(id_, order, call, return_fee=asked.request.return_fee)
            case "VoidTransfer":
                work = transfers.authorizations.void(call, id_)
            case _:
                work = transfers.cancel(call, id_)

        async def told() -> None:
            try:
                self._note(await work)
            except DomainError as refusal:
                self._note(refusal)

        self.bank.world.spawn(replica.process, told())

    def _expect(self, name: str) -> None:
        if name not in self.made:
            self.made.append(name)

    def _note(self, answer: Transfer | DomainError) -> None:
        """What is told as final is final."""
        transfer = answer.transfer if isinstance(answer, Declined) else answer
        if isinstance(answer, RecordedRefusal) and not isinstance(answer, Declined):
            raise Wrong(f"a caller was told what only services tell each other: {answer.message}")
        if not isinstance(transfer, Transfer) or transfer.state not in FINAL:
            return
        reason = reason_name(reason_of(transfer.refusal)) if transfer.refusal is not None else ""
        before = self.told.setdefault(transfer.name, (transfer.state, reason))
        if transfer.state not in _AFTER.get(before[0], (before[0],)) or reason != before[1]:
            raise Wrong(f"{transfer.name} was told to be {before}, and then {transfer.state} {reason}")
        oracle = self.bank.oracle
        if transfer.state in (State.COMPLETED, State.REVERSED):
            if transfer.name not in oracle.moved:
                raise Wrong(f"{transfer.name} was told to be {transfer.state}, and moved nothing")
            return
        if transfer.name in oracle.moved:
            raise Wrong(f"{transfer.name} was told to be {transfer.state}, and moved money")
        oracle.never.add(transfer.name)


def _money(amount: int) -> money_pb2.Money:
    return money_pb2.Money(currency_code="EUR", minor_units=amount)
