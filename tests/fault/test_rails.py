"""transactions is killed while money leaves and comes in; each payment is settled or given back, or credited, once."""

from __future__ import annotations

import time

from florin.transactions.v1 import rail_pb2
from florin.transactions.v1 import rail_service_pb2 as pb
from local import counterparty
from local.counterparty import Credit
from tests.support import faults, rails
from tests.support.mesh import Mesh
from tests.support.protocols import Refused

WITHDRAWALS, DEPOSITS = 24, 16
ENDED = {rail_pb2.WITHDRAWAL_STATE_SETTLED, rail_pb2.WITHDRAWAL_STATE_RETURNED}
SECONDS = 110.0


def test_money_leaves_and_comes_in_once_whatever_is_killed(mesh: Mesh) -> None:
    """kill -9 of both replicas twice meanwhile: payments of which half are rejected, and credits; the account has what
    it has to have."""
    tenant, number = mesh.tenant(), rails.new_iban()
    rails.open_accounts(mesh, tenant)
    account = mesh.account(funds=1000_00, tenant=tenant, iban=number)
    folder = rails.folder(mesh, tenant)
    requests = [rails.withdrawal(account, 1_00 if one % 2 else 1_13) for one in range(WITHDRAWALS)]
    made: dict[str, int] = {}
    deadline, kills = time.monotonic() + SECONDS, [4, 16]
    paid_in = 0
    while len(made) < WITHDRAWALS or not set(made.values()) <= ENDED or paid_in < DEPOSITS:
        assert time.monotonic() < deadline, (len(made), set(made.values()))
        if paid_in < DEPOSITS:
            counterparty.pay(folder, Credit(number, "0.50", "EUR", "Otto Beispiel", rails.OUTSIDE))
            paid_in += 1
        try:
            if len(made) < WITHDRAWALS:
                asked = mesh.call("RailService.CreateWithdrawal", requests[len(made)], tenant=tenant)
                made[asked.withdrawal.name] = asked.withdrawal.state
            else:
                listed = mesh.call("RailService.ListWithdrawals", pb.ListWithdrawalsRequest(), tenant=tenant)
                made.update({one.name: one.state for one in listed.withdrawals})
        except Refused as refused:
            assert refused.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"), refused
        counterparty.answers(folder)
        if kills and len(made) >= kills[0]:
            kills.pop(0)
            for replica in faults.replicas(mesh, "transactions"):
                mesh.kill(replica)
    expected = 1000_00 - WITHDRAWALS // 2 * 1_00 + DEPOSITS * 50
    rails.once(lambda: mesh.balance(account, tenant=tenant).posted.minor_units == expected, 60)
    assert len(made) == WITHDRAWALS
    rails.once(lambda: not list((folder / "claimed").iterdir()))
    verified = mesh.florin("verify")
    assert verified.returncode == 0, verified.stdout
