"""Whole payments of every kind, each with the end that it has to come to, played by callers who do not give up."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from florin.common.v1 import money_pb2
from florin.compliance.v1 import compliance_service_pb2, decision_pb2
from florin.transactions.v1 import transfer_pb2
from florin.transactions.v1 import transfer_service_pb2 as pb
from local.client import Edge, Patience, Refused
from meshkit.errors import reason_name
from tests.support.load import REVIEW_ABOVE, state_of

_FINAL = ("COMPLETED", "DECLINED", "REVERSED", "CAPTURED", "VOIDED", "EXPIRED")
PATIENCE_SECONDS = 150.0
"""What is under way when a process dies may be under way again when the next one does."""


class NotAsPlayed(AssertionError):
    """Something came to another end than it has to."""


@dataclass
class Scenes:
    """The callers of one tenant. Accounts are large, but for `poor`, which has nothing."""

    edge: Edge
    tenant: str
    accounts: list[str]
    poor: str
    seed: int
    ends: dict[str, str] = field(default_factory=dict)
    """Transfer → the state that it came to, which has to be the one it has when all is over."""
    moved: Counter[str] = field(default_factory=Counter)
    """Account → what all scenes together brought it."""
    played: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._teller = self.edge.session("teller", tenant=self.tenant)
        self._officer = self.edge.session("compliance", tenant=self.tenant)

    def all(self) -> list[Callable[[str], Awaitable[None]]]:
        """Every kind of scene; each takes a tag that no other has."""
        return [
            self.pays,
            self.is_too_poor,
            self.pays_a_batch,
            self.is_approved,
            self.is_rejected,
            self.is_cancelled,
            self.is_captured,
            self.is_voided,
            self.expires,
            self.is_reversed,
        ]

    async def pays(self, tag: str) -> None:
        """A payment."""
        await self._paid(tag)

    async def is_too_poor(self, tag: str) -> None:
        """A payment without funds."""
        _, credit, amount = self._draw(tag)
        name, reason = await self._refused(self._request(tag, self.poor, credit, amount))
        await self._ends(name, "DECLINED")
        if reason != "INSUFFICIENT_FUNDS":
            raise NotAsPlayed(f"{name} of a poor account was declined for {reason}")

    async def pays_a_batch(self, tag: str) -> None:
        """Four payments in one call."""
        drawn = [self._draw(f"{tag}-{number}") for number in range(4)]
        asked = pb.BatchCreateTransfersRequest(
            requests=[self._request(f"{tag}-{number}", *one) for number, one in enumerate(drawn)]
        )
        made = await self._call(self._teller.transfers.BatchCreateTransfers, asked)
        for one, result in zip(drawn, made.results, strict=True):
            await self._ends(result.transfer.name, "COMPLETED")
            self._move(*one)

    async def is_approved(self, tag: str) -> None:
        """A large payment that an officer looks at and approves."""
        one, name = await self._reviewed(tag)
        await self._resolve(name, approve=True)
        await self._ends(name, "COMPLETED")
        self._move(*one)

    async def is_rejected(self, tag: str) -> None:
        """A large payment that an officer looks at and rejects."""
        _, name = await self._reviewed(tag)
        await self._resolve(name, approve=False)
        await self._ends(name, "DECLINED")

    async def is_cancelled(self, tag: str) -> None:
        """A large payment that is cancelled before anybody looked at it."""
        _, name = await self._reviewed(tag)
        asked = pb.CancelTransferRequest(name=name, request_id=f"cancel-{tag}")
        await self._call(self._teller.transfers.CancelTransfer, asked)
        await self._ends(name, "DECLINED")

    async def is_captured(self, tag: str) -> None:
        """An authorization that is captured in three parts, of which the last leaves some of it."""
        (debit, credit, _), name = await self._authorized(tag)
        for number, (amount, final) in enumerate(((30, False), (40, False), (20, True))):
            asked = pb.CaptureTransferRequest(
                name=name, amount=_money(amount), final=final, request_id=f"{tag}-{number}"
            )
            made = await self._call(self._teller.transfers.CaptureTransfer, asked)
            await self._ends(made.capture.name, "COMPLETED")
            self._move(debit, credit, amount)
        await self._ends(name, "CAPTURED")

    async def is_voided(self, tag: str) -> None:
        """An authorization that is voided."""
        _, name = await self._authorized(tag)
        await self._call(self._teller.transfers.VoidTransfer, pb.VoidTransferRequest(name=name, request_id=f"v-{tag}"))
        await self._ends(name, "VOIDED")

    async def expires(self, tag: str) -> None:
        """An authorization that nobody does anything about, and that may be over before it stands."""
        asked = self._request(tag, *self._draw(tag)[:2], 100, authorize_only=True)
        asked.valid_for.FromTimedelta(timedelta(seconds=1))
        try:
            made = await self._call(self._teller.transfers.CreateTransfer, asked)
            name = made.transfer.name
        except Refused as refused:
            name = refused.metadata["transfer"]
        await self._ends(name, "EXPIRED", "DECLINED")

    async def is_reversed(self, tag: str) -> None:
        """A payment of which a part is moved back."""
        (debit, credit, _), name = await self._paid(tag)
        asked = pb.ReverseTransferRequest(name=name, amount=_money(1), reason="wrong", request_id=f"reverse-{tag}")
        made = await self._call(self._teller.transfers.ReverseTransfer, asked)
        await self._ends(made.reversal.name, "COMPLETED")
        await self._ends(name, "REVERSED")
        self._move(credit, debit, 1)

    async def _paid(self, tag: str) -> tuple[tuple[str, str, int], str]:
        one = self._draw(tag)
        made = await self._call(self._teller.transfers.CreateTransfer, self._request(tag, *one))
        await self._ends(made.transfer.name, "COMPLETED")
        self._move(*one)
        return one, made.transfer.name

    async def _reviewed(self, tag: str) -> tuple[tuple[str, str, int], str]:
        debit, credit, amount = self._draw(tag)
        one = debit, credit, amount + REVIEW_ABOVE
        made = await self._call(self._teller.transfers.CreateTransfer, self._request(tag, *one))
        await self._reaches(made.transfer.name, "IN_REVIEW")
        return one, made.transfer.name

    async def _authorized(self, tag: str) -> tuple[tuple[str, str, int], str]:
        debit, credit, _ = self._draw(tag)
        asked = self._request(tag, debit, credit, 100, authorize_only=True)
        made = await self._call(self._teller.transfers.CreateTransfer, asked)
        await self._reaches(made.transfer.name, "AUTHORIZED")
        return (debit, credit, 100), made.transfer.name

    async def _refused(self, asked: pb.CreateTransferRequest) -> tuple[str, str]:
        """The transfer that was declined, and why: told at once, or read later by who got no more than its name."""
        try:
            made = await self._call(self._teller.transfers.CreateTransfer, asked)
        except Refused as refused:
            return refused.metadata["transfer"], refused.reason
        found = await self._reaches(made.transfer.name, *_FINAL)
        return found.name, reason_name(found.refusal.reason)

    async def _resolve(self, transfer: str, *, approve: bool) -> None:
        officer = self._officer
        asked = compliance_service_pb2.ListCasesRequest(transfer=transfer, state=decision_pb2.CASE_STATE_OPEN)
        patience = Patience(PATIENCE_SECONDS)
        (case,) = (await officer.call(officer.compliance.ListCases, asked, patience=patience)).cases
        kinds = compliance_service_pb2.ResolveCaseRequest
        resolution = kinds(
            name=case.name,
            resolution=kinds.RESOLUTION_APPROVE if approve else kinds.RESOLUTION_REJECT,
            reason="looked at",
            request_id=f"resolve-{transfer}",
        )
        await officer.call(officer.compliance.ResolveCase, resolution, patience=patience)

    async def _ends(self, name: str, *states: str) -> None:
        """Waits until a transfer is in one of these states, which has to be its end."""
        found = await self._reaches(name, *states)
        self.ends[name] = state_of(found)

    async def _reaches(self, name: str, *states: str) -> transfer_pb2.Transfer:
        asked, patience = pb.GetTransferRequest(name=name), Patience(PATIENCE_SECONDS)
        while True:
            found: transfer_pb2.Transfer = (await self._call(self._teller.transfers.GetTransfer, asked)).transfer
            state = state_of(found)
            if state in states:
                return found
            # A payment completes before it is reversed, and a part of an authorization is captured before it ends.
            on_its_way = state not in _FINAL or (state == "COMPLETED" and "REVERSED" in states)
            if not on_its_way or not await patience.wait():
                raise NotAsPlayed(f"{name} is {state}, it should be {states}")

    async def _call(self, method: Any, request: Any) -> Any:
        return await self._teller.call(method, request, patience=Patience(PATIENCE_SECONDS))

    def _draw(self, tag: str) -> tuple[str, str, int]:
        chance = random.Random(f"{self.seed}-{tag}")
        debit, credit = chance.sample(self.accounts, 2)
        return debit, credit, chance.randint(2, 500)

    def _request(self, tag: str, debit: str, credit: str, amount: int, **more: Any) -> pb.CreateTransferRequest:
        return pb.CreateTransferRequest(
            debit_account=debit,
            credit_account=credit,
            amount=_money(amount),
            end_to_end_id=tag,
            request_id=tag,
            **more,
        )

    def _move(self, debit: str, credit: str, amount: int) -> None:
        self.moved[debit] -= amount
        self.moved[credit] += amount


@contextmanager
def playing(scenes: Scenes, callers: int) -> Iterator[Callable[[], Awaitable[None]]]:
    """Callers who play scene after scene while the block runs; gives what ends them, and raises what they met."""
    over = asyncio.Event()

    async def play(number: int) -> None:
        kinds = scenes.all()
        turn = number
        while not over.is_set():
            scene = kinds[turn % len(kinds)]
            await scene(f"{number}-{turn}")
            scenes.played[scene.__name__] += 1
            turn += 1

    tasks = [asyncio.create_task(play(number)) for number in range(callers)]

    async def end() -> None:
        over.set()
        await asyncio.gather(*tasks)

    try:
        yield end
    finally:
        for task in tasks:
            task.cancel()


def _money(amount: int) -> money_pb2.Money:
    return money_pb2.Money(currency_code="EUR", minor_units=amount)
