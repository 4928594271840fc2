"""A payment that was held for review and then passed by a stand-in decision leaves no hold behind."""

from __future__ import annotations

import pytest

from tests.integration.transactions.conftest import Replica
from tests.unit.transactions.making import transfer
from transactions.model import State


@pytest.mark.parametrize("funds", [9_000_000, 100_000])
async def test_a_stand_in_payment_gives_back_the_hold_of_its_lost_review(replica: Replica, funds: int) -> None:
    """INV-6: the answer of the hold was lost, then compliance was down. The hold is given back before the journal, so
    that it neither outlives the transfer nor keeps its own funds from it."""
    replica.passes._settings = replica.settings.model_copy(
        update={"screening_posture": "stand-in", "stand_in_maximum": {"EUR": 9_000_000}}
    )
    replica.ledger.balances["accounts/a"] = funds
    replica.ledger.faults.lose.append("hold")
    order = transfer(amount=replica.screening.REVIEW_FROM)
    assert (await replica.create(order)).state is State.ACCEPTED
    assert replica.ledger.active_holds() == 1
    replica.screening.faults.down = True
    await replica.hurry()
    await replica.recovery.before_ready()
    row = await replica.row(order)
    assert (row.state, row.stand_in) == (State.COMPLETED, True)
    assert replica.ledger.active_holds() == 0
    assert replica.ledger.journals == {order.name: 1}
