"""State tokens over gRPC and on a real database: what was previewed is made as it was shown, or not at all."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest import mock

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from florin.common.v1 import errors_pb2
from florin.transactions.v1 import transfer_pb2
from florin.transactions.v1 import transfer_service_pb2 as pb
from meshkit import clock
from meshkit.errors import DomainError, RecordedRefusal, error_info
from tests.integration.transactions.conftest import Replica, Service, order
from tests.integration.transactions.test_fees import paying, set_schedule
from tests.integration.transactions.test_recovery import POINTS, dies, restarted
from tests.unit.transactions.making import transfer
from transactions import answers
from transactions.clients import _limit_exceeded
from transactions.errors import StateChanged
from transactions.model import AccountType, Expected, State, StateToken, Transfer, Verdict
from transactions.ports import Decision, Outcome

OWNER = {"role": "customer", "customer": "customers/anna"}
REQUEST = b"r" * 32


async def previewed(service: Service, **changes: Any) -> tuple[pb.CreateTransferRequest, pb.TransferPreview]:
    """A preview by Anna, and the request that makes what it showed."""
    request = order(debit_account="accounts/anna", validate_only=True, **changes)
    preview = (await service.call("CreateTransfer", request, **OWNER)).preview
    request.validate_only = False
    request.state_token = preview.state_token
    return request, preview


async def refusal_of(service: Service, request: Any, **who: Any) -> tuple[str, dict[str, str]]:
    """The reason of a refused CreateTransfer, and its metadata."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.call("CreateTransfer", request, **(who or OWNER))
    status = rpc_status.from_call(caught.value)
    info = (error_info(status) if status is not None else None) or error_details_pb2.ErrorInfo()
    return info.reason, dict(info.metadata)


async def test_what_was_previewed_is_made_as_it_was_shown(service: Service) -> None:
    """The same legs and balance, whatever happened on the payee's account meanwhile."""
    request, preview = await previewed(service)
    assert preview.state_token_expire_time.ToSeconds() >= int(clock.now().timestamp())
    await service.call("CreateTransfer", order(debit_account="accounts/a"))
    made = (await service.call("CreateTransfer", request, **OWNER)).transfer
    assert made.state == preview.state == transfer_pb2.TRANSFER_STATE_COMPLETED
    assert service.ledger.balances["accounts/anna"] == preview.legs[0].balance_after.minor_units


async def test_what_was_overtaken_is_refused_for_good_and_moves_nothing(service: Service) -> None:
    """Another payment came first: a declined transfer with its reason, the same for each copy of the request."""
    request, _ = await previewed(service)
    await service.call("CreateTransfer", order(debit_account="accounts/anna"), **OWNER)
    for _ in range(2):
        reason, facts = await refusal_of(service, request)
        assert (reason, facts["changed"]) == ("STATE_CHANGED", "BALANCE")
    found = (await service.call("GetTransfer", pb.GetTransferRequest(name=facts["transfer"]), **OWNER)).transfer
    assert found.state == transfer_pb2.TRANSFER_STATE_DECLINED
    assert service.ledger.balances["accounts/anna"] == 49_000


async def test_a_copy_of_a_request_is_answered_whatever_became_of_its_token(service: Service) -> None:
    """Overtaken by that very payment, and over by then; one that was never used is over, and leaves its key free."""
    request, _ = await previewed(service)
    made = (await service.call("CreateTransfer", request, **OWNER)).transfer
    unused, _ = await previewed(service)
    later = clock.now() + timedelta(seconds=service.settings.state_token_seconds)
    with mock.patch.object(clock, "now", lambda: later):
        assert (await service.call("CreateTransfer", request, **OWNER)).transfer == made
        assert (await refusal_of(service, unused))[0] == "STATE_TOKEN_EXPIRED"
    request.state_token = "another"
    assert (await refusal_of(service, request))[0] == "REQUEST_ID_REUSED"
    assert (await service.call("CreateTransfer", unused, **OWNER)).transfer.name != made.name


async def test_a_token_is_for_one_caller_and_one_request(service: Service) -> None:
    """Made up, somebody else's, another payment's: each is told, and nothing is recorded."""
    request, _ = await previewed(service)
    dearer = order(debit_account="accounts/anna", state_token=request.state_token)
    dearer.amount.minor_units = 2000
    assert (await refusal_of(service, dearer))[1]["why"] == "REQUEST"
    assert (await refusal_of(service, request, role="teller"))[1]["why"] == "CALLER"
    made_up = order(debit_account="accounts/anna", state_token="made-up")
    reason, facts = await refusal_of(service, made_up)
    assert (reason, facts["why"], facts["field"]) == ("STATE_TOKEN_INVALID", "FORGED", "state_token")
    both = order(debit_account="accounts/anna", state_token=request.state_token, validate_only=True)
    assert (await refusal_of(service, both))[0] == "REQUEST_INVALID"
    for one in (request, dearer, made_up):
        made = pb.ListTransfersRequest(filter=f"request_id = {one.request_id}")
        assert not (await service.call("ListTransfers", made, role="teller")).transfers
    answer = await service.call("BatchCreateTransfers", pb.BatchCreateTransfersRequest(requests=[request]), **OWNER)
    assert answer.results[0].transfer.state == transfer_pb2.TRANSFER_STATE_COMPLETED


@pytest.mark.parametrize("amount", [1000, 100_000, 1_000_000])
async def test_a_preview_does_not_tell_that_a_payment_would_be_looked_at_or_declined(
    service: Service, amount: int
) -> None:
    """Allowed, reviewed, declined: to who does not see decisions all look alike; who does is told."""
    assert (service.screening.REVIEW_FROM, service.screening.DECLINE_FROM) == (100_000, 1_000_000)
    service.ledger.balances["accounts/anna"] = 2_000_000
    request, preview = await previewed(service)
    request.amount.minor_units, request.validate_only, request.state_token = amount, True, ""
    shown = (await service.call("CreateTransfer", request, **OWNER)).preview
    assert (shown.state, list(shown.events)) == (preview.state, list(preview.events))
    assert [leg.amount.minor_units for leg in shown.legs] == [-amount, amount]
    assert not shown.HasField("refusal") and not shown.HasField("decision")
    assert len(shown.state_token) == len(preview.state_token)
    officer = (await service.call("CreateTransfer", request, role="operator")).preview
    told = {1000: "COMPLETED", 100_000: "IN_REVIEW", 1_000_000: "DECLINED"}[amount]
    assert transfer_pb2.TransferState.Name(officer.state) == f"TRANSFER_STATE_{told}"
    assert bool(officer.state_token) == (told != "DECLINED")


async def test_a_preview_tells_of_limits_also_where_more_is_wrong(service: Service) -> None:
    """They are the customer's own; only that they are exceeded is told, not what else is."""
    limit = pb.CreateTransferResponse().transfer.refusal
    limit.message, limit.metadata["left"] = "The limit is 5.00 EUR.", "500"
    outcome = Outcome(decision=Decision.DECLINE, limit_refusal=_limit_exceeded(limit))
    service.screening._decide = lambda transfer: outcome  # type: ignore[method-assign]
    _, preview = await previewed(service)
    info = error_info(preview.refusal)
    assert info is not None and (info.reason, info.metadata["left"]) == ("LIMIT_EXCEEDED", "500")
    assert preview.state == transfer_pb2.TRANSFER_STATE_DECLINED and not preview.state_token


# What follows is about one replica by itself.


def promised(replica: Replica, **changes: Any) -> Transfer:
    """A transfer whose token holds the payer's account as it is now."""
    made = paying(**changes)
    expected = replica.ledger.state(made.debit_account)
    text, _ = replica.transfers.orders.state_tokens.seal(made, REQUEST, expected)
    return replace(made, state_token=StateToken(text, REQUEST))


async def refused(replica: Replica, order_: Transfer) -> DomainError:
    """Why a transfer is not made."""
    with pytest.raises(DomainError) as caught:
        await replica.create(order_)
    return caught.value


@pytest.mark.parametrize("point", POINTS)
async def test_whoever_finishes_a_transfer_holds_it_to_what_was_previewed(replica: Replica, point: str) -> None:
    """A process dies on the way and the payer's account changes before another goes on: not made, or made before."""
    order_ = promised(replica)
    await dies(replica, point, [order_])
    posted = replica.ledger.journals[order_.name]
    replica.ledger.balances["accounts/a"] += 1
    replica.ledger.versions["accounts/a"] += 1
    await replica.hurry()
    after = restarted(replica)
    await after.recovery.before_ready()
    row = await after.row(order_)
    assert row.state is (State.COMPLETED if posted else State.DECLINED)
    assert row.expected == Expected(0, 1_000_000)
    if not posted:
        assert row.refusal is not None and RecordedRefusal(row.refusal).recorded_reason == StateChanged.reason
    assert replica.ledger.journals[order_.name] == posted


async def test_of_payments_that_were_previewed_together_the_first_is_made(replica: Replica) -> None:
    """In one batch: each was shown the same account, which the first changes."""
    orders = [promised(replica), promised(replica), transfer()]
    results = await replica.transfers.orders.create_batch(orders, asyncio.get_running_loop().time() + 5)
    reasons = [one.reason if isinstance(one, DomainError) else one.state for one in results]
    kinds = [isinstance(one, DomainError) for one in results]
    assert kinds == [False, True, False], reasons


@pytest.mark.parametrize("kind", ["authorization", "review"])
async def test_what_is_held_is_held_as_it_was_previewed(replica: Replica, kind: str) -> None:
    """An authorization and a payment in review are looked at when their money is held, and not again."""
    changes = (
        {"expire_time": clock.now().replace(year=2100)}
        if kind == "authorization"
        else {"amount": replica.screening.REVIEW_FROM}
    )
    first, second = promised(replica, **changes), promised(replica, **changes)
    made = await replica.create(first)
    assert made.state is (State.AUTHORIZED if kind == "authorization" else State.IN_REVIEW)
    late = await refused(replica, second)
    assert isinstance(late, RecordedRefusal) and late.metadata["changed"] == "AVAILABLE"
    if kind == "review":
        await replica.create(transfer())
        await replica.verdict(made, Verdict.APPROVED)
        await replica.recovery.before_ready()
        assert (await replica.row(made)).state is State.COMPLETED


async def test_another_fee_is_refused_before_anything_is_recorded(replica: Replica) -> None:
    """A new version of the schedule, before and after the preview; with it the payment is made and keeps both."""
    replica.ledger.open("fees", type_=AccountType.FEE)
    order_ = promised(replica)
    await set_schedule(replica)
    changed = await refused(replica, replace(order_, create_time=clock.now()))
    assert changed.metadata["changed"] == "FEE" and changed.metadata["previewed_version"] == "0"
    assert await replica.query(f"SELECT 1 FROM transfers WHERE id = '{order_.id}'") == []
    priced = await replica.transfers.orders.previewed(paying())
    text, _ = replica.transfers.orders.state_tokens.seal(priced, REQUEST, replica.ledger.state("accounts/a"))
    made = await replica.create(replace(priced, fee=None, state_token=StateToken(text, REQUEST)))
    assert made.fee == priced.fee is not None
    assert (await replica.row(made)).expected == Expected(0, 1_000_000)


@pytest.mark.parametrize(
    ("state", "reason", "changed"),
    [
        (State.ACCEPTED, "ACCOUNT_FROZEN", "ACCOUNT_STATE"),
        (State.ACCEPTED, "ACCOUNT_CREDITS_BLOCKED", "ACCOUNT_STATE"),
        (State.ACCEPTED, "LIMIT_EXCEEDED", "LIMITS"),
        (State.ACCEPTED, "PAYMENT_DECLINED", ""),
        (State.IN_REVIEW, "ACCOUNT_FROZEN", ""),
    ],
)
def test_what_was_not_in_the_way_of_the_preview_is_a_change(state: State, reason: str, changed: str) -> None:
    """With its cause; but nothing is told of compliance, and what was held as promised is refused as any other."""

    class Cause(DomainError):
        """A refusal of a step."""

    Cause.reason = errors_pb2.Reason.Value(f"REASON_{reason}")
    cause = Cause("No.", metadata={"account": "accounts/b"}).to_status()
    told = answers.refusal(cause, transfer(state=state, expected=Expected(1, 1)))
    info = error_info(told)
    assert info is not None and info.metadata["account"] == "accounts/b"
    assert (info.reason, info.metadata["changed"]) == (("STATE_CHANGED" if changed else reason), changed)
    assert not changed or info.metadata["cause"] == reason
    plain = error_info(answers.refusal(cause, transfer(state=state)))
    assert plain is not None and plain.reason == reason
