"""`florin verify` finds a withdrawal whose money is not where it says, and a deposit that was credited twice."""

from __future__ import annotations

import uuid

import pytest

from checker import rails
from checker.events import NAMESPACE
from checker.rules import RULES, told_of
from checker.tables import DEPOSITS, RAIL_EXCEPTIONS, WITHDRAWALS, all_of
from local import verify
from tests.integration.local.test_verify import Urls, databases, execute, transfer, urls

__all__ = ["databases", "urls"]


@pytest.fixture(autouse=True)
def _no_rows(urls: Urls) -> None:
    execute(urls, "transactions", "TRUNCATE withdrawals, deposits, rail_exceptions")


def withdrawal(urls: Urls, state: str, id_: str, *, reversal: str = "", told: bool = True) -> None:
    """A withdrawal of a transfer, in its first version, that is told of or not."""
    execute(
        urls,
        "transactions",
        "INSERT INTO withdrawals (tenant, id, version, state, subject, scopes, request_key, fingerprint, debit_account,"
        " currency, amount, parties, end_to_end_id, message, reversal, deposit, refusal, customers, create_time,"
        " update_time, send_time) VALUES ('demo', %s, 1, %s, 'ada', '', %s, '', 'accounts/a', 'EUR', 5, '', '', %s, %s,"
        " '', %s, '{}', now(), now(), %s)",
        id_,
        state,
        uuid.uuid4(),
        "" if state in ("ACCEPTED", "DECLINED") else "m",
        reversal,
        b"x" if state == "DECLINED" else None,
        None if state in ("ACCEPTED", "DECLINED", "BOOKED") else "2026-01-01T00:00Z",
    )
    if told:
        tell(urls, f"withdrawals/{id_}")


def tell(urls: Urls, aggregate: str) -> None:
    """The event of a first version."""
    execute(
        urls,
        "transactions",
        "INSERT INTO outbox (tenant, partition, event_id, subject, aggregate, version, time, traceparent, data)"
        " VALUES ('demo', 0, %s, 's', %s, 1, now(), '', '')",
        uuid.uuid5(NAMESPACE, f"demo/{aggregate}#1"),
        aggregate,
    )


def moved(urls: Urls, request_id: str) -> str:
    """A transfer of the bank's own that moved money."""
    id_ = transfer(urls, "COMPLETED", "journals/j")
    wanted = rails.transfer_id("demo", request_id)
    execute(urls, "transactions", "UPDATE transfers SET id = %s, request_key = %s WHERE id = %s", wanted, wanted, id_)
    return wanted


def deposit(urls: Urls, state: str, step: int, *, credit: str = "", suspense: str = "") -> None:
    """The deposit d, in its first version."""
    execute(
        urls,
        "transactions",
        "INSERT INTO deposits (tenant, id, version, state, message_id, entry, number, fingerprint, currency, amount,"
        " parties, end_to_end_id, concern, withdrawal, step, credit_account, credit_transfer, suspense_transfer,"
        " create_time, update_time, due_time) VALUES"
        " ('demo', 'd', 1, %s, 'm', 'e', 1, '', 'EUR', 5, '', '', '', '', %s, %s, %s, %s, now(), now(), %s)",
        state,
        step,
        "accounts/a" if credit else "",
        credit,
        suspense,
        None if state in ("CREDITED", "SUSPENDED") else "2026-01-01T00:00Z",
    )
    tell(urls, "deposits/d")


def test_withdrawals_whose_transfers_are_as_they_say_hold(urls: Urls) -> None:
    """Settled by a completed one, declined by a declined one."""
    withdrawal(urls, "SETTLED", transfer(urls, "COMPLETED", "journals/a"))
    withdrawal(urls, "DECLINED", transfer(urls, "DECLINED"))
    assert violations(urls, "INV-6") == []
    assert violations(urls, "INV-7") == []


@pytest.mark.parametrize(
    ("state", "transfer_state", "reversal"),
    [
        ("SETTLED", "DECLINED", ""),
        ("DECLINED", "COMPLETED", ""),
        ("RETURNED", "COMPLETED", "r"),
        ("SENT", "ACCEPTED", ""),
    ],
)
def test_a_withdrawal_that_says_of_its_money_what_is_not_so_is_found(
    urls: Urls, state: str, transfer_state: str, reversal: str
) -> None:
    """Settled without having been paid, rejected without having been given back, and the like."""
    made = transfer(urls, transfer_state, "journals/a" if transfer_state == "COMPLETED" else "")
    withdrawal(urls, state, made, reversal=reversal)
    (violation,) = violations(urls, "INV-6")
    assert f"is {state}, and its transfer is {transfer_state}" in violation


def test_a_change_that_was_not_told_of_is_found(urls: Urls) -> None:
    """A version without its event."""
    withdrawal(urls, "ACCEPTED", transfer(urls, "ACCEPTED"), told=False)
    (violation,) = violations(urls, "INV-7")
    assert "has version 1 and events up to 0" in violation


def test_deposits_that_moved_their_money_once_hold(urls: Urls) -> None:
    """Suspended first and assigned then; and what moved and is not recorded yet."""
    suspended, credited = moved(urls, "deposits/d/suspense/1"), moved(urls, "deposits/d/2")
    deposit(urls, "CREDITED", 2, credit=credited, suspense=suspended)
    assert violations(urls, "INV-5") == []
    execute(urls, "transactions", "TRUNCATE deposits, transfers, outbox")
    moved(urls, "deposits/d/0")
    deposit(urls, "RECEIVED", 0)
    assert violations(urls, "INV-5") == []


def test_a_deposit_that_was_credited_twice_is_found(urls: Urls) -> None:
    """Two of its steps moved money to a customer, or it names one that did not."""
    first = moved(urls, "deposits/d/0")
    moved(urls, "deposits/d/1")
    deposit(urls, "CREDITED", 0, credit=first)
    (violation,) = violations(urls, "INV-5")
    assert "demo/deposits/d is CREDITED" in violation
    execute(urls, "transactions", "TRUNCATE deposits, transfers, outbox")
    deposit(urls, "CREDITED", 0, credit=first)
    assert len(violations(urls, "INV-5")) == 1


def test_a_transfer_of_somebody_who_chose_the_id_of_a_step_is_none_of_the_deposit(urls: Urls) -> None:
    """Ids may be chosen by who makes a transfer, request keys may not: nobody can have a deposit look wrong."""
    deposit(urls, "CREDITED", 0, credit=moved(urls, "deposits/d/0"))
    chosen = rails.transfer_id("demo", "deposits/d/suspense/1")
    made = transfer(urls, "COMPLETED", "journals/k")
    execute(urls, "transactions", "UPDATE transfers SET id = %s WHERE id = %s", chosen, made)
    assert violations(urls, "INV-5") == []


def violations(urls: Urls, name: str) -> list[str]:
    """What breaks an invariant, by the checks that `florin verify` makes."""
    connection = verify._connect(urls["transactions"])
    try:
        if name == "INV-5":
            return [one.line for one in rails.violations(connection, all_of(DEPOSITS))[1]]
        rules = told_of(1) if name == "INV-7" else RULES
        tables = (WITHDRAWALS, DEPOSITS, RAIL_EXCEPTIONS)
        return [
            violation.line
            for rule in rules
            if rule.table in tables
            for violation in rule.violations(connection, all_of(rule.table))
        ]
    finally:
        connection.close()
