"""A transfer_id that several requests of one moment choose belongs to one of them."""

from __future__ import annotations

import time
from unittest import mock

from meshkit.errors import DomainError
from tests.integration.transactions.conftest import Replica
from tests.unit.transactions.making import ANNA, transfer
from transactions.errors import TransferExists
from transactions.model import State, Transfer


async def test_one_request_of_a_batch_gets_the_id_and_nobody_else_feels_it(replica: Replica) -> None:
    """Five hundred requests choose one id: one is paid as it was asked, the others are told that it exists, and those
    who share their batch are paid; it is no failure of the batch."""
    same = [transfer(id="chosen", amount=number) for number in range(1, 500)]
    same.append(transfer(ANNA, id="chosen", debit_account="accounts/anna", amount=500))
    others = [transfer(amount=10) for _ in range(20)]
    batcher = replica.transfers.orders._intents
    with mock.patch.object(batcher, "_process", wraps=batcher._process) as process:
        answers = await replica.transfers.orders.create_batch([*others, *same], time.monotonic() + 20)
    assert process.call_count == 1
    assert {answer.state for answer in answers[:20] if isinstance(answer, Transfer)} == {State.COMPLETED}
    made = [answer for answer in answers[20:] if isinstance(answer, Transfer)]
    refused = [answer for answer in answers[20:] if isinstance(answer, DomainError)]
    assert (len(made), len(refused)) == (1, 499)
    assert {type(answer) for answer in refused} == {TransferExists}
    row = await replica.row(made[0])
    asked = next(order for order in same if order.request_key == row.request_key)
    assert (row.amount, row.debit_account, row.principal) == (asked.amount, asked.debit_account, asked.principal)
    assert replica.ledger.balances["accounts/b"] == row.amount + 200
