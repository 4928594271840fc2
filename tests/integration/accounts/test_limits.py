"""Blocked sides and minimum balances on a running service: who sets them, what they stop, and what is told of them."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from accounts import operations
from accounts.balance_errors import MinimumBalanceUncovered
from accounts.model import AccountType
from accounts.overdraft_operations import Wish
from florin.accounts.v1 import account_pb2, events_pb2
from florin.accounts.v1 import account_service_pb2 as pb
from florin.accounts.v1 import ledger_service_pb2 as ledger_pb
from florin.common.v1 import money_pb2
from meshkit.database import Database
from meshkit.identity import Call, Principal
from tests.integration.accounts.conftest import Ledger, Service, reason, refusal
from tests.integration.accounts.test_service import journal_step

DEBIT, CREDIT = account_pb2.POSTING_SIDE_DEBIT, account_pb2.POSTING_SIDE_CREDIT
SETTLEMENT = account_pb2.ACCOUNT_TYPE_SETTLEMENT


async def funded(service: Service, db: Database, amount: int = 100) -> None:
    """A customer's active account "main" with money on it, and the accounts "bank" and "house"."""
    await service.customer("acme")
    await service.account("bank", type_=SETTLEMENT)
    await service.account("house", type_=account_pb2.ACCOUNT_TYPE_INTERNAL)
    await service.account("main", "acme")
    await sql(db, service, "UPDATE accounts SET state = 2 WHERE account = 'main' RETURNING 1")
    await service.call("FundAccount", service.fund("main", amount, "funded"))


async def sql(db: Database, service: Service, statement: str) -> list[tuple[Any, ...]]:
    """Rows of the service's tenant."""

    async def work(conn: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await conn.exec_driver_sql(statement)]

    return await db.run(service.tenant, work)


def block(side: Any, why: str = "a dispute", **values: Any) -> pb.BlockAccountRequest:
    """A request to block a side of "main"."""
    return pb.BlockAccountRequest(name="accounts/main", side=side, reason=why, **values)


def unblock(side: Any) -> pb.UnblockAccountRequest:
    """A request to unblock a side of "main"."""
    return pb.UnblockAccountRequest(name="accounts/main", side=side, reason="settled")


def minimum(minor_units: int | None, currency: str = "EUR", *, name: str = "main", **values: Any) -> Any:
    """A request to set the minimum balance of an account; none for None."""
    account = account_pb2.Account(name=f"accounts/{name}", **values)
    if minor_units is not None:
        account.minimum_balance.CopyFrom(money_pb2.Money(currency_code=currency, minor_units=minor_units))
    paths = ["minimum_balance", *(["overdraft_limit_minor_units"] if values else [])]
    return pb.UpdateAccountRequest(account=account, update_mask=FieldMask(paths=paths))


async def transfer(service: Service, amount: int) -> str:
    """The reason that a payment out of "main" is refused with; empty if it is posted."""
    step = journal_step(service, ("accounts/main", -amount), ("accounts/house", amount))
    (outcome,) = (await service.internal.PostJournals(ledger_pb.PostJournalsRequest(steps=[step]))).outcomes
    return reason(outcome.refusal) if outcome.HasField("refusal") else ""


async def test_a_side_is_blocked_alone_and_seen_by_all_but_why(service: Service, db: Database) -> None:
    """Staff reads the reason, the customer that there is one; the other side goes on."""
    await funded(service, db)
    account = (await service.call("BlockAccount", block(DEBIT), "teller")).account
    assert (account.debits_blocked, account.debit_block_reason) == (True, "a dispute")
    assert (account.credits_blocked, account.credit_block_reason) == (False, "")
    assert account.state == account_pb2.ACCOUNT_STATE_ACTIVE
    get = pb.GetAccountRequest(name="accounts/main")
    own = (await service.call("GetAccount", get, "customer", customer="customers/acme")).account
    assert (own.debits_blocked, own.debit_block_reason) == (True, "")
    assert await transfer(service, 1) == "ACCOUNT_DEBITS_BLOCKED"
    await service.call("FundAccount", service.fund("main", 5, "goes on"))
    free = (await service.call("UnblockAccount", unblock(DEBIT), "teller")).account
    assert (free.debits_blocked, free.debit_block_reason) == (False, "")
    assert await transfer(service, 1) == ""


async def test_blocked_credits_refuse_funding(service: Service, db: Database) -> None:
    """The reason is definitive for its request_id; another one after the block was lifted is served."""
    await funded(service, db)
    await service.call("BlockAccount", block(CREDIT), "teller")
    assert await refusal(service.call("FundAccount", service.fund("main", 5, "f"))) == "ACCOUNT_CREDITS_BLOCKED"
    assert await transfer(service, 1) == ""
    await service.call("UnblockAccount", unblock(CREDIT), "teller")
    assert await refusal(service.call("FundAccount", service.fund("main", 5, "f"))) == "ACCOUNT_CREDITS_BLOCKED"
    await service.call("FundAccount", service.fund("main", 5, "g"))


async def test_each_change_of_a_block_is_told_and_audited_once(service: Service, db: Database) -> None:
    """Blocking what is blocked changes nothing and keeps the first reason; a request_id has one effect."""
    await funded(service, db)
    for _ in range(2):
        await service.call("BlockAccount", block(DEBIT, request_id="b1"), "teller")
    again = (await service.call("BlockAccount", block(DEBIT, "another"), "teller")).account
    assert again.debit_block_reason == "a dispute"
    await service.call("UnblockAccount", unblock(CREDIT), "teller")
    await service.call("UnblockAccount", unblock(DEBIT), "teller")
    rows = await sql(
        db, service, "SELECT data FROM outbox WHERE aggregate = 'accounts/main' AND version > 1 ORDER BY version"
    )
    told = [events_pb2.AccountUpdated.FromString(bytes(row[0])) for row in rows]
    assert [event.debits_blocked for event in told] == [True, False]
    audited = await sql(db, service, "SELECT action, why, after FROM audit WHERE action LIKE '%%block%%' ORDER BY id")
    assert [(action, why) for action, why, _ in audited] == [
        ("block_debits", "a dispute"),
        ("unblock_debits", "settled"),
    ]
    assert audited[0][2]["debits_blocked"] is True


async def test_blocking_is_refused_in_the_documented_order(service: Service, db: Database) -> None:
    """Not found, then closed; a frozen or pending account can be blocked, a blocked one closed."""
    await funded(service, db)
    nobody = pb.BlockAccountRequest(name="accounts/nobody", side=DEBIT, reason="x")
    assert await refusal(service.call("BlockAccount", nobody, "teller")) == "ACCOUNT_NOT_FOUND"
    for side in (0, 7):
        assert await refusal(service.call("BlockAccount", block(side), "teller")) == "REQUEST_INVALID"
    house = pb.BlockAccountRequest(name="accounts/house", side=DEBIT, reason="x")
    await service.call("BlockAccount", house, "teller")
    await service.call("CloseAccount", pb.CloseAccountRequest(name="accounts/house"), "teller")
    for method, request in (("BlockAccount", house), ("UnblockAccount", pb.UnblockAccountRequest)):
        closed = request if method == "BlockAccount" else request(name="accounts/house", side=DEBIT, reason="x")
        assert await refusal(service.call(method, closed, "teller")) == "ACCOUNT_CLOSED"
    await service.account("waiting", "acme")
    waiting = pb.BlockAccountRequest(name="accounts/waiting", side=CREDIT, reason="x")
    assert (await service.call("BlockAccount", waiting, "teller")).account.credits_blocked
    freeze = pb.FreezeAccountRequest(name="accounts/main", reason="x")
    await service.call("FreezeAccount", freeze, "teller")
    assert (
        await service.call("BlockAccount", block(DEBIT), "teller")
    ).account.state == account_pb2.ACCOUNT_STATE_FROZEN
    customer = {"role": "customer", "customer": "customers/acme"}
    assert await refusal(service.call("BlockAccount", block(DEBIT), **customer)) == "SCOPE_MISSING"


async def test_a_minimum_is_kept_and_shown(service: Service, db: Database) -> None:
    """It lowers what is available, and a debit that does not leave it is refused with both figures."""
    await funded(service, db)
    account = (await service.call("UpdateAccount", minimum(30), "teller")).account
    assert (account.minimum_balance.minor_units, account.balance.available.minor_units) == (30, 70)
    balance = (await service.call("GetBalance", pb.GetBalanceRequest(name="accounts/main"))).balance
    assert balance == account.balance
    assert await transfer(service, 71) == "INSUFFICIENT_FUNDS"
    assert await transfer(service, 70) == ""
    cleared = (await service.call("UpdateAccount", minimum(None), "teller")).account
    assert (cleared.HasField("minimum_balance"), cleared.balance.available.minor_units) == (False, 30)
    rows = await sql(
        db, service, "SELECT data FROM outbox WHERE aggregate = 'accounts/main' AND version > 1 ORDER BY version"
    )
    told = [events_pb2.AccountUpdated.FromString(bytes(row[0])) for row in rows]
    assert [event.minimum_balance.minor_units for event in told] == [30, 0]


async def test_the_banks_own_accounts_are_updated_below_zero(service: Service, db: Database) -> None:
    """No minimum is kept on them, so none is uncovered: a settlement account is below zero as a matter of course."""
    await funded(service, db)
    account = account_pb2.Account(name="accounts/bank", display_name="At the central bank")
    request = pb.UpdateAccountRequest(account=account, update_mask=FieldMask(paths=["display_name"]))
    changed = (await service.call("UpdateAccount", request)).account
    assert (changed.display_name, changed.balance.available.minor_units) == ("At the central bank", -100)


async def test_a_minimum_is_refused_in_the_documented_order(service: Service, db: Database) -> None:
    """Each request breaks one rule and some that stand after it."""
    await funded(service, db)
    await service.account("gone", type_=account_pb2.ACCOUNT_TYPE_INTERNAL)
    await service.call("CloseAccount", pb.CloseAccountRequest(name="accounts/gone"), "teller")
    both = {"overdraft_limit_minor_units": 5}
    cases = [
        ("REQUEST_INVALID", minimum(-1)),
        ("REQUEST_INVALID", minimum(10**15 + 1)),
        ("ACCOUNT_NOT_FOUND", minimum(101, "USD", name="nobody")),
        ("ETAG_MISMATCH", pb.UpdateAccountRequest(account=minimum(101, "USD").account, update_mask=FieldMask())),
        ("ACCOUNT_CLOSED", minimum(101, "USD", name="gone")),
        ("ACCOUNT_TYPE_WRONG", minimum(101, "USD", name="house")),
        ("CURRENCY_MISMATCH", minimum(101, "USD", **both)),
        ("MINIMUM_BALANCE_WITH_OVERDRAFT", minimum(101, **both)),
        ("MINIMUM_BALANCE_UNCOVERED", minimum(101)),
    ]
    cases[3][1].account.etag = "77"
    cases[3][1].update_mask.paths.append("minimum_balance")
    found = [await refusal(service.call("UpdateAccount", request, "teller")) for _, request in cases]
    assert found == [expected for expected, _ in cases]


async def test_an_account_has_a_minimum_or_an_overdraft_and_changes_from_one_to_the_other(
    service: Service, db: Database
) -> None:
    """One request can end the one and begin the other, if what stands on the account allows it."""
    await funded(service, db)
    await service.call("UpdateAccount", minimum(0, overdraft_limit_minor_units=50), "teller")
    assert await refusal(service.call("UpdateAccount", minimum(10), "teller")) == "MINIMUM_BALANCE_WITH_OVERDRAFT"
    assert await transfer(service, 120) == ""
    change = minimum(10, overdraft_limit_minor_units=0)
    assert await refusal(service.call("UpdateAccount", change, "teller")) == "OVERDRAFT_IN_USE"
    await service.call("FundAccount", service.fund("main", 30, "f2"))
    changed = (await service.call("UpdateAccount", change, "teller")).account
    assert (changed.overdraft_limit_minor_units, changed.minimum_balance.minor_units) == (0, 10)
    back = minimum(0, overdraft_limit_minor_units=50)
    assert (await service.call("UpdateAccount", back, "teller")).account.overdraft_limit_minor_units == 50


async def test_concurrent_debits_and_minimums_never_meet_below(ledger: Ledger) -> None:
    """INV-3 under concurrency: whatever order a minimum and debits come in, the row's check is never broken."""
    await ledger.open("a", 100, type=AccountType.CUSTOMER)
    await ledger.open("b")
    call = Call("m", "edge", Principal(ledger.tenant, "teller", None, frozenset()), "", b"", float("inf"))

    async def set_minimum(amount: int) -> None:
        async def work(conn: Any) -> None:
            await operations.update_account(
                conn,
                call,
                name="accounts/a",
                etag="",
                display_name=None,
                wish=Wish(minimum=amount),
                approval_time=timedelta(hours=1),
            )

        with contextlib.suppress(MinimumBalanceUncovered):
            await ledger.db.run(ledger.tenant, work)

    await set_minimum(10)
    steps = [ledger.apply(ledger.post(("a", -7), ("b", 7))) for _ in range(20)]
    await asyncio.gather(*steps, *(set_minimum(amount) for amount in range(10, 100, 10)))
    balance = await ledger.balance("a")
    assert balance.posted >= balance.minimum >= 10
    assert balance.available >= 0
    await ledger.check_books()


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("minimum_balance = 101", "inv_3_available_not_negative"),
        ("minimum_balance = 10, overdraft_limit = 10", "accounts_minimum_balance"),
        ("minimum_balance = -1", "accounts_minimum_balance"),
        ("posted = 29, minimum_balance = 30", "inv_3_available_not_negative"),
    ],
)
async def test_the_row_refuses_a_minimum_that_is_not_kept(ledger: Ledger, change: str, constraint: str) -> None:
    """Should the code ever be wrong; also that of the version before, which knows no minimum."""
    await ledger.open("a", 100, type=AccountType.CUSTOMER)
    with pytest.raises(Exception, match=constraint):
        await ledger.rows(f"UPDATE accounts SET {change} WHERE account = 'a' RETURNING 1")
