"""`florin verify` finds what is wrong across services, counts all that is final, and waits for what is on its way."""

from __future__ import annotations

import importlib
import json
import threading
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import URL

from local import verify
from local.state import SERVICES
from local.verify import Finding
from meshkit import clock
from meshkit.idempotency import NAMESPACE
from tests.support.parts import Parts, fresh_database
from transactions.schedule import transfer_id

Urls = dict[str, URL]


@pytest.fixture(scope="module")
def databases(parts: Parts) -> Urls:
    """A database of each service, as its owner."""
    names = {service: fresh_database(parts, service) for service in SERVICES}
    # The check of rights goes by the usual name of a service's role.
    with psycopg.connect(parts.postgres.admin_dsn("postgres"), autocommit=True) as admin:
        for service in SERVICES:
            parts.postgres._role(admin, f"{service}_runtime")
    return {service: parts.url(name, f"{name}_owner") for service, name in names.items()}


@pytest.fixture
def urls(databases: Urls) -> Urls:
    """The databases without the rows of the test before."""
    for service, tables in (
        (
            "transactions",
            (
                "transfers, schedules, schedule_runs, fee_schedule_versions, quotes, payment_files, payment_file_items,"
                " outbox"
            ),
        ),
        ("accounts", "journals, accounts"),
    ):
        execute(databases, service, f"TRUNCATE {tables} CASCADE")
    execute(databases, "compliance", "TRUNCATE reservations")
    execute(databases, "accounts", "REVOKE ALL ON entries FROM accounts_runtime")
    return databases


def execute(urls: Urls, service: str, statement: str, *parameters: Any) -> None:
    """Runs a statement as a service's owner, for all tenants."""
    url = urls[service]
    with psycopg.connect(
        **dict(url.query), user=url.username, password=url.password, dbname=url.database, options="-c florin.tenants=*"
    ) as connection:
        connection.execute(statement, parameters)


def transfer(urls: Urls, state: str, journal: str = "", *, version: int = 1, told: int = 1) -> str:
    """A transfer that became final just now, with as many events as told; gives its id."""
    id_ = str(uuid.uuid4())
    execute(
        urls,
        "transactions",
        "INSERT INTO transfers (tenant, id, version, state, subject, scopes, request_key, request_id, fingerprint,"
        " debit_account, credit_account, currency, amount, creditor_name, end_to_end_id, remittance, journal, refusal,"
        " create_time, update_time) VALUES ('demo', %s, %s, %s, 'ada', '', %s, 'r', '', 'accounts/a', 'accounts/b',"
        " 'EUR', 5, '', '', '', %s, %s, now(), now())",
        id_,
        version,
        state,
        uuid.uuid4(),
        journal,
        b"x" if state == "DECLINED" else None,
    )
    for number in range(1, told + 1):
        event = uuid.uuid5(NAMESPACE, f"demo/transfers/{id_}#{number}")
        execute(
            urls,
            "transactions",
            "INSERT INTO outbox (tenant, partition, event_id, subject, aggregate, version, time, traceparent, data)"
            " VALUES ('demo', 0, %s, 'florin.transactions.transfer_completed.v1', %s, %s, now(), '', '')",
            event,
            f"transfers/{id_}",
            number,
        )
    return id_


def journal_of(urls: Urls, id_: str) -> str:
    """A journal that accounts posted for a transfer; gives its name."""
    journal = str(uuid.uuid4())
    execute(urls, "accounts", "INSERT INTO tenants VALUES ('demo', '', 'UTC', now()) ON CONFLICT DO NOTHING")
    execute(
        urls,
        "accounts",
        "INSERT INTO journals VALUES ('demo', %s, 1, %s, now(), now())",
        journal,
        f"transfers/{id_}",
    )
    return f"journals/{journal}"


def reservation(urls: Urls, id_: str, state: int) -> None:
    """What compliance keeps of a transfer's share of a limit, nobody's."""
    execute(
        urls,
        "compliance",
        "INSERT INTO reservations VALUES ('demo', %s, %s, '{}', 'EUR', current_date, 5, %s, now())",
        f"transfers/{id_}",
        uuid.uuid4(),
        state,
    )


def found(urls: Urls, ahead: timedelta = timedelta()) -> dict[str, Finding]:
    """Every invariant by its name."""
    return {finding.name: finding for finding in verify.verify_databases(urls, ahead=ahead)}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong for good is so after a fifth of a second."""
    monkeypatch.setattr(verify, "SETTLED_SECONDS", 0.2)
    monkeypatch.setattr(verify, "_AGAIN_SECONDS", 0.05)


def test_empty_books_hold(urls: Urls) -> None:
    """There is nothing to find, and the rights of append-only tables are looked at all the same."""
    findings = found(urls)
    assert set(findings) == set(verify.CLAIMS)
    assert not [finding for finding in findings.values() if finding.violations]
    assert findings["INV-4"].checked > 5


def test_a_transfer_is_checked_the_moment_it_is_final(urls: Urls) -> None:
    """ "Holds" with nothing looked at would say nothing."""
    id_ = transfer(urls, "DECLINED")
    findings = found(urls)
    assert findings["INV-6"].checked == 1
    assert not findings["INV-6"].violations
    reservation(urls, id_, 1)
    assert found(urls)["INV-8"].violations == [f"demo/transfers/{id_} is DECLINED and its reservation still counts"]


def test_a_completed_transfer_without_its_journal_is_found(urls: Urls) -> None:
    """Money that transactions tells of and accounts does not know."""
    lost = transfer(urls, "COMPLETED", "journals/lost")
    (violation,) = found(urls)["INV-6"].violations
    assert violation == f"demo/transfers/{lost} is COMPLETED: journals [], expected ['journals/lost']"


def test_a_declined_transfer_with_a_journal_is_found(urls: Urls) -> None:
    """Money that moved although the caller was told that it did not."""
    id_ = transfer(urls, "DECLINED")
    journal = journal_of(urls, id_)
    violations = found(urls)["INV-6"].violations
    assert f"demo/transfers/{id_} is DECLINED: journals ['{journal}'], expected []" in violations


def test_a_journal_of_a_transfer_that_is_not_there_is_found(urls: Urls) -> None:
    """Money that moved for nothing: a transfer is recorded before its journal is."""
    journal = journal_of(urls, "made-up")
    legs(urls, journal, ("a", -5), ("b", 5))
    assert found(urls)["INV-6"].violations == [
        f"demo/transfers/made-up is not there: journals {[journal]}, expected []"
    ]


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ("UPDATE accounts SET currency = 'USD' WHERE account = 'b'", "b: entry 1 is in EUR, the account in USD"),
        ("DELETE FROM accounts WHERE account = 'b'", "b: entry 1 is in EUR, and there is no such account"),
        ("UPDATE entries SET sequence = 0 WHERE account = 'b'", "b: entry 0 says 5, and comes before the first one"),
    ],
)
def test_an_entry_that_its_account_cannot_have_is_found(parts: Parts, urls: Urls, change: str, wrong: str) -> None:
    """Of another currency, of no account, before the first."""
    paid(urls, 0)
    with psycopg.connect(parts.postgres.admin_dsn(str(urls["accounts"].database))) as root:
        root.execute("SET session_replication_role = replica")
        root.execute("ALTER TABLE entries DROP CONSTRAINT inv_2_sequence_positive")
        root.execute(change)  # type: ignore[arg-type]
        try:
            root.commit()
            assert f"demo/accounts/{wrong}" in found(urls)["INV-2"].violations
        finally:
            execute(urls, "accounts", "TRUNCATE journals, accounts CASCADE")
            root.execute("ALTER TABLE entries ADD CONSTRAINT inv_2_sequence_positive CHECK (sequence > 0)")


def priced(urls: Urls, id_: str, fee: int) -> None:
    """Has a transfer that a schedule's only version priced."""
    execute(
        urls,
        "transactions",
        "INSERT INTO fee_schedule_versions VALUES ('demo', 'PAYMENT', 'EUR', 1, 2, 0, 'DOWN', 0, NULL, 'accounts/fees',"
        " true, now(), now(), 'ada') ON CONFLICT DO NOTHING",
    )
    execute(
        urls,
        "transactions",
        "UPDATE transfers SET fee = %s, fee_schedule = 'feeSchedules/payment-eur', fee_version = 1,"
        " fee_account = 'accounts/fees' WHERE id = %s",
        fee,
        id_,
    )


def legs(urls: Urls, journal: str, *moved: tuple[str, int]) -> None:
    """Entries of a journal, in USD on accounts whose name ends with it."""
    accounts = [account for account, _ in moved]
    currencies = ["USD" if account.endswith("usd") else "EUR" for account in accounts]
    execute(
        urls,
        "accounts",
        "INSERT INTO accounts (tenant, account, type, state, currency, display_name, version, create_time, update_time)"
        " SELECT DISTINCT 'demo', n.account, 2, 2, n.currency, '', 1, now(), now()"
        " FROM unnest(%s::text[], %s::text[]) AS n(account, currency) ON CONFLICT DO NOTHING",
        accounts,
        currencies,
    )
    # In one statement: a journal is balanced at the end of its transaction.
    execute(
        urls,
        "accounts",
        "WITH legs AS (SELECT *, row_number() OVER before AS number, sum(n.amount) OVER before AS moved"
        " FROM unnest(%s::text[], %s::bigint[]) WITH ORDINALITY AS n(account, amount, leg)"
        " WINDOW before AS (PARTITION BY n.account ORDER BY n.leg)), entered AS (INSERT INTO entries (tenant, account,"
        " sequence, journal, leg, currency, amount, balance_after, create_time, effective_time) SELECT a.tenant,"
        " a.account, a.sequence + legs.number, j.journal, legs.leg - 1, a.currency, legs.amount, a.posted + legs.moved,"
        " j.create_time, j.effective_time FROM legs JOIN accounts AS a USING (account), journals AS j"
        " WHERE j.journal = %s) UPDATE accounts AS a SET posted = a.posted + s.moved, sequence = a.sequence + s.number"
        " FROM (SELECT account, sum(amount) AS moved, count(*) AS number FROM legs GROUP BY account) AS s"
        " WHERE a.account = s.account",
        accounts,
        [amount for _, amount in moved],
        journal.removeprefix("journals/"),
    )


def paid(urls: Urls, fee: int, *more: tuple[str, int], payee: tuple[str, int] = ("b", 5)) -> str:
    """A completed transfer of 5 from "a" that was priced at a fee, whose journal has more legs; gives its id."""
    id_ = transfer(urls, "COMPLETED", "journals/unknown")
    journal = journal_of(urls, id_)
    execute(urls, "transactions", "UPDATE transfers SET journal = %s WHERE id = %s", journal, id_)
    if fee:
        priced(urls, id_, fee)
    legs(urls, journal, ("a", -5), payee, *more)
    return id_


def test_a_fee_that_moved_as_it_was_decided_is_as_it_should_be(urls: Urls) -> None:
    """Of a payment, and of a reversal that gives it back; it is counted among what was checked."""
    paid(urls, 2, ("a", -2), ("fees", 2))
    back = paid(urls, 2, ("fees", -2), ("b", 2))
    execute(urls, "transactions", "UPDATE transfers SET reversal_of = 'another' WHERE id = %s", back)
    finding = found(urls)["INV-6"]
    assert not finding.violations
    assert finding.checked == 4


@pytest.mark.parametrize(
    ("fee", "moved"),
    [
        (2, []),
        (2, [("a", -3), ("fees", 3)]),
        (2, [("a", -2), ("elsewhere", 2)]),
        (2, [("b", -2), ("fees", 2)]),
        (0, [("a", -2), ("fees", 2)]),
    ],
)
def test_a_fee_that_moved_otherwise_is_found(urls: Urls, fee: int, moved: list[tuple[str, int]]) -> None:
    """Not at all, too much, elsewhere, from another one, or without having been decided."""
    id_ = paid(urls, fee, *moved)
    told = [(f"accounts/{account}", amount) for account, amount in moved]
    wanted = [("accounts/a", -2), ("accounts/fees", 2)] if fee else []
    assert found(urls)["INV-6"].violations == [
        f"demo/transfers/{id_}: its journal's other legs are {told}, expected {wanted}"
    ]


def quoted(urls: Urls, id_: str, *, got: int = 6) -> None:
    """Has a transfer use a quote of 5 EUR for 6 USD, and say that so much was got."""
    execute(
        urls,
        "transactions",
        "INSERT INTO quotes VALUES ('demo', 'q', '', 'EUR', 5, 'USD', 6, 1.2, 'exchangeRates/eur-usd', 1, now(),"
        " 'accounts/eur', 'accounts/usd', now(), now())",
    )
    execute(
        urls,
        "transactions",
        "UPDATE transfers SET quote = 'q', credit_currency = 'USD', credit_amount = %s, rate = 1.2,"
        " debit_position = 'accounts/eur', credit_position = 'accounts/usd' WHERE id = %s",
        got,
        id_,
    )


DOLLARS = ("b-usd", 6)
POSITIONS = (("eur", 5), ("usd", -6))


def test_an_exchange_that_moved_as_it_was_quoted_is_as_it_should_be(urls: Urls) -> None:
    """Through the positions; each currency's legs are compared with the row, and the row with the quote."""
    quoted(urls, paid(urls, 0, *POSITIONS, payee=DOLLARS))
    assert found(urls)["INV-6"].violations == []


@pytest.mark.parametrize("positions", [POSITIONS[::-1], (("other", 5), ("usd", -6)), (("eur", 5), ("other-usd", -6))])
def test_an_exchange_that_moved_otherwise_is_found(urls: Urls, positions: tuple[tuple[str, int], ...]) -> None:
    """By legs in another order, or through another account."""
    id_ = paid(urls, 0, *positions, payee=DOLLARS)
    quoted(urls, id_)
    (violation,) = found(urls)["INV-6"].violations
    assert violation.startswith(f"demo/transfers/{id_}: its journal's other legs are")


def test_an_exchange_that_did_not_move_is_found(urls: Urls) -> None:
    """The payee got what was paid, in the payer's currency."""
    id_ = paid(urls, 0)
    quoted(urls, id_)
    (violation,) = found(urls)["INV-6"].violations
    assert violation.startswith(f"demo/transfers/{id_}: its journal's other legs are []")


def test_an_exchange_that_was_not_quoted_so_is_found(urls: Urls) -> None:
    """The payee got more than the quote says."""
    id_ = paid(urls, 0, ("eur", 5), ("usd", -7), payee=("b-usd", 7))
    quoted(urls, id_, got=7)
    assert found(urls)["INV-6"].violations == [
        f"demo/transfers/{id_} changed 5 EUR into 7 USD, which quotes/q does not say"
    ]


def test_a_reversal_that_moves_something_else_back_is_found(urls: Urls) -> None:
    """What was changed goes back as it came."""
    original = paid(urls, 0, *POSITIONS, payee=DOLLARS)
    quoted(urls, original)
    back = paid(urls, 0)
    execute(urls, "transactions", "UPDATE transfers SET reversal_of = %s WHERE id = %s", original, back)
    assert found(urls)["INV-6"].violations == [f"demo/transfers/{back} does not move back what {original} changed"]


def test_a_fee_that_no_version_charges_is_found(urls: Urls) -> None:
    """A version that does not exist, or whose fees go elsewhere."""
    id_ = paid(urls, 2, ("a", -2), ("fees", 2))
    for changed in ("fee_version = 2", "fee_schedule = 'feeSchedules/payment-usd', fee_version = 1"):
        execute(urls, "transactions", f"UPDATE transfers SET {changed}")
        (violation,) = found(urls)["INV-6"].violations
        assert violation.startswith(f"demo/transfers/{id_} was priced by version")


def test_captures_that_were_charged_more_than_was_held_are_found(urls: Urls) -> None:
    """Or less, once all of it is captured."""
    authorization = transfer(urls, "DECLINED")
    ended = "state = 'CAPTURED', refusal = NULL, captured = 5, expire_time = now()"
    execute(urls, "transactions", f"UPDATE transfers SET {ended}")
    capture = paid(urls, 2, ("a", -2), ("fees", 2))
    execute(urls, "transactions", "UPDATE transfers SET capture_of = %s WHERE id = %s", authorization, capture)
    for fee in (1, 3):
        priced(urls, authorization, fee)
        assert found(urls)["INV-6"].violations == [
            f"demo/transfers/{authorization} was priced at {fee}, its captures were charged 2"
        ]
    priced(urls, authorization, 2)
    assert not found(urls)["INV-6"].violations


def test_what_is_on_its_way_is_waited_for(urls: Urls, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reservation that is given back a moment after its transfer ended is no violation."""
    monkeypatch.setattr(verify, "SETTLED_SECONDS", 20)
    id_ = transfer(urls, "DECLINED")
    reservation(urls, id_, 1)
    late = threading.Timer(
        1.0, execute, (urls, "compliance", "UPDATE reservations SET state = 3 WHERE transfer = %s", f"transfers/{id_}")
    )
    late.start()
    try:
        assert not found(urls)["INV-8"].violations
    finally:
        late.join()


def test_a_change_without_its_event_is_found(urls: Urls) -> None:
    """Version 3, and two events."""
    id_ = transfer(urls, "DECLINED", version=3, told=2)
    assert found(urls)["INV-7"].violations == [f"demo/transfers/{id_} has version 3 and events up to 2"]


def test_events_that_a_sandbox_keeps_no_longer_are_not_missed(urls: Urls) -> None:
    """Kept by the machine's time, a week, for changes whose time is a month ahead: those of the bank's last day are
    looked for, and no others."""
    month = timedelta(days=31)
    for name, ago in (("old", timedelta(days=2)), ("new", timedelta())):
        id_, schedule = transfer(urls, "DECLINED", told=0), run(urls, "DECLINED", (), told=False).split("/")[1]
        for statement, row in (
            ("UPDATE transfers SET id = %s, update_time = now() + %s WHERE id = %s", id_),
            ("UPDATE schedule_runs SET schedule = %s, update_time = now() + %s WHERE schedule = %s", schedule),
        ):
            execute(urls, "transactions", statement, name, month - ago, row)
    assert set(found(urls, month)["INV-7"].violations) == {
        "demo/transfers/new has version 1 and events up to 0",
        "demo/schedules/new/runs/1 is DECLINED and has 0 events",
    }


def test_an_event_of_another_id_and_a_gap_are_found(urls: Urls) -> None:
    """An id follows from the aggregate and the version, and versions follow each other."""
    id_ = transfer(urls, "DECLINED", version=3, told=3)
    execute(urls, "transactions", "UPDATE outbox SET event_id = %s WHERE version = 3", uuid.uuid4())
    execute(urls, "transactions", "DELETE FROM outbox WHERE version = 2")
    violations = found(urls)["INV-7"].violations
    assert f"transactions: demo/transfers/{id_} jumps from version 1 to 3" in violations
    assert f"transactions: demo/transfers/{id_} version 3 has another event id" in violations


def run(urls: Urls, state: str, paid_by: tuple[int, ...], attempts: int = 2, *, told: bool = True) -> str:
    """A run of a schedule that was told of, and completed transfers of those of its attempts; gives its name."""
    schedule, now = str(uuid.uuid4()), datetime.now(UTC)
    name = f"schedules/{schedule}/runs/1"
    execute(
        urls,
        "transactions",
        "INSERT INTO schedule_runs (tenant, schedule, number, state, nominal_date, run_time, amount, creditor_name,"
        " end_to_end_id, remittance, attempts, refusal, due_time, create_time, update_time) VALUES"
        " ('demo', %s, 1, %s, '2026-03-02', now(), 5, '', '', '', %s, %s, %s, %s, now())",
        schedule,
        state,
        attempts,
        b"x" if state in {"DECLINED", "WAITING"} else None,
        None if state in {"COMPLETED", "DECLINED"} else now,
        now,
    )
    for attempt in range(1, attempts + 2):
        if attempt in paid_by:
            id_ = transfer(urls, "COMPLETED", "journals/x")
            wanted = transfer_id(f"demo/{name}/{clock.microseconds(now)}", attempt)
            execute(urls, "transactions", "UPDATE transfers SET id = %s WHERE id = %s", wanted, id_)
    if told:
        execute(
            urls,
            "transactions",
            "INSERT INTO outbox (tenant, partition, event_id, subject, aggregate, version, time, traceparent, data)"
            " VALUES ('demo', 0, %s, 'florin.transactions.schedule_run_completed.v1', %s, 1, now(), '', '')",
            uuid.uuid5(NAMESPACE, f"demo/{name}#1"),
            name,
        )
    return name


@pytest.mark.parametrize(
    ("state", "paid_by", "holds"),
    [
        ("COMPLETED", (2,), True),
        ("COMPLETED", (), False),
        ("COMPLETED", (1,), False),
        ("COMPLETED", (1, 2), False),
        ("COMPLETED", (2, 3), False),
        ("STARTED", (), True),
        ("STARTED", (2,), True),
        ("STARTED", (1,), False),
        ("WAITING", (), True),
        ("WAITING", (2,), False),
        ("DECLINED", (), True),
        ("DECLINED", (2,), False),
    ],
)
def test_a_run_pays_once_where_it_says_so(urls: Urls, state: str, paid_by: tuple[int, ...], holds: bool) -> None:
    """By its last attempt, and by none that it does not know of."""
    name = run(urls, state, paid_by)
    finding = found(urls)["INV-5"]
    told = f"demo/{name} is {state} after 2 attempts, and those that paid are {list(paid_by)}"
    assert finding.violations == ([] if holds else [told])
    assert finding.checked == 1 + len(paid_by)  # the transfers have request_ids too


def test_a_run_that_is_over_and_was_not_told_of_is_found(urls: Urls) -> None:
    """And so is one that was told of before it is over."""
    silent, early = run(urls, "COMPLETED", (2,), told=False), run(urls, "STARTED", ())
    assert set(found(urls)["INV-7"].violations) >= {
        f"demo/{silent} is COMPLETED and has 0 events",
        f"demo/{early} is STARTED and has 1 events",
    }


def booked(urls: Urls) -> str:
    """A journal of 5 from "b" to "a", and a statement of "a" with it; gives the journal's id."""
    journal = journal_of(urls, str(uuid.uuid4())).removeprefix("journals/")
    for account, amount in (("a", 5), ("b", -5)):
        execute(
            urls,
            "accounts",
            "INSERT INTO accounts (tenant, account, type, state, currency, display_name, version, create_time,"
            " update_time, posted, sequence) VALUES ('demo', %s, 2, 2, 'EUR', '', 1, now(), now(), %s, 1)",
            account,
            amount,
        )
    execute(
        urls,
        "accounts",
        "INSERT INTO entries (tenant, account, sequence, journal, leg, currency, amount, balance_after, create_time,"
        " effective_time) SELECT tenant, n.account, 1, journal, n.leg, 'EUR', n.amount, n.amount, create_time,"
        " effective_time FROM journals, (VALUES ('a', 0, 5), ('b', 1, -5)) AS n(account, leg, amount)"
        " WHERE journal = %s",
        journal,
    )
    execute(
        urls,
        "accounts",
        "INSERT INTO statements VALUES ('demo', %s, 'a', 1, '2026-03-01', '2026-03-31', 'UTC', '2026-03-01Z',"
        " '2026-04-01Z', 'EUR', 0, 5, 0, 1, '', '', 1, now())",
        uuid.UUID(int=1),
    )
    return journal


def test_a_statement_that_entries_do_not_say_is_found(urls: Urls) -> None:
    """Another balance, or a sequence that no entry has."""
    booked(urls)
    assert not found(urls)["INV-2"].violations
    name = f"demo/statements/{uuid.UUID(int=1)}"
    execute(urls, "accounts", "UPDATE statements SET opening = 3")
    assert found(urls)["INV-2"].violations == [f"{name}: 3 at 0 and 5 at 1, entries say nothing and 5"]
    execute(urls, "accounts", "UPDATE statements SET opening = 0, closing = 0, closing_sequence = 2")
    assert found(urls)["INV-2"].violations == [f"{name}: 0 at 0 and 0 at 2, entries say nothing and nothing"]


def limited(urls: Urls, *, posted: int = 0, limit: int = 0, minimum: int = 0) -> None:
    """A customer account "a", on which a raise from no overdraft limit to 9 waits."""
    execute(urls, "accounts", "INSERT INTO tenants VALUES ('demo', '', 'UTC', now()) ON CONFLICT DO NOTHING")
    execute(
        urls,
        "accounts",
        "INSERT INTO accounts (tenant, account, type, state, currency, display_name, version, create_time, update_time,"
        " posted, overdraft_limit, minimum_balance) VALUES ('demo', 'a', 1, 2, 'EUR', '', 1, now(), now(), %s, %s, %s)",
        posted,
        limit,
        minimum,
    )
    execute(
        urls,
        "accounts",
        "INSERT INTO overdraft_changes (tenant, change, account, state, currency, previous_limit, new_limit,"
        " requested_by, version, create_time, expire_time)"
        " VALUES ('demo', %s, 'a', 1, 'EUR', 0, 9, 'teller', 1, now(), now())",
        uuid.UUID(int=2),
    )


def test_a_limit_that_waits_for_what_is_no_longer_so_is_found(urls: Urls) -> None:
    """Whoever changes the limit, sets a minimum or closes the account ends what waits, in the same transaction."""
    limited(urls, posted=50)
    name = f"demo/overdraftChanges/{uuid.UUID(int=2)} waits to raise 0, accounts/a has"
    assert not [violation for violation in found(urls)["INV-3"].violations if "overdraft" in violation]
    for change, has in (
        ("overdraft_limit = 5", "5, a minimum of 0 and state 2"),
        ("state = 4", "0, a minimum of 0 and"),
    ):
        execute(urls, "accounts", "UPDATE accounts SET overdraft_limit = 0, posted = 0, state = 2")
        execute(urls, "accounts", f"UPDATE accounts SET {change}")
        (violation,) = found(urls)["INV-3"].violations
        assert violation.startswith(f"{name} {has}")
    execute(urls, "accounts", "UPDATE overdraft_changes SET state = 5, end_time = now()")
    assert not found(urls)["INV-3"].violations


def test_a_minimum_that_is_not_kept_is_found(urls: Urls) -> None:
    """Should somebody have taken the checks of the rows away."""
    for constraint in ("inv_3_available_not_negative", "accounts_minimum_balance"):
        execute(urls, "accounts", f"ALTER TABLE accounts DROP CONSTRAINT {constraint}")
    limited(urls, posted=10, limit=1, minimum=20)
    execute(urls, "accounts", "UPDATE overdraft_changes SET state = 5, end_time = now()")
    try:
        assert found(urls)["INV-3"].violations == [
            "demo/accounts/a: available -9",
            "demo/accounts/a: minimum balance 20 and overdraft limit 1",
        ]
    finally:
        execute(urls, "accounts", "TRUNCATE accounts CASCADE")
        migration = importlib.import_module("accounts.migrations.versions.0007_limits")
        execute(urls, "accounts", migration._RULES)


def test_an_entry_with_other_times_than_its_journal_is_found(urls: Urls) -> None:
    """Counted from another day, recorded earlier or later; what a version before wrote at the end of a stated period
    is as it should be."""
    journal = booked(urls)
    wrong = ["demo/accounts/a: entry 1 has other times than its journal"]
    for changed in (
        "effective_time = effective_time - interval '1 day'",
        "create_time = create_time - interval '1 microsecond'",
        "create_time = create_time + interval '1 day'",
    ):
        execute(urls, "accounts", f"UPDATE entries SET {changed} WHERE account = 'a'")
        assert found(urls)["INV-2"].violations == wrong, changed
        restored = "create_time = j.create_time, effective_time = j.effective_time FROM journals AS j"
        execute(urls, "accounts", f"UPDATE entries AS e SET {restored} WHERE j.journal = %s", journal)
    assert not found(urls)["INV-2"].violations
    execute(urls, "accounts", "UPDATE entries SET create_time = create_time + interval '1 day' WHERE account = 'a'")
    execute(urls, "accounts", "UPDATE statements SET end_time = (SELECT create_time FROM entries WHERE account = 'a')")
    assert not found(urls)["INV-2"].violations


def posted_by_the_bank(urls: Urls) -> str:
    """A journal that the bank posted itself, with metadata and all that is kept of it; gives its id."""
    journal = booked(urls)
    for statement in (
        "UPDATE journals SET kind = 4, origin = 'manual/x' WHERE journal = %s",
        "INSERT INTO journal_accounts SELECT tenant, account, create_time, journal FROM entries WHERE journal = %s",
        "INSERT INTO journal_metadata SELECT tenant, journal, 'run', 'x', create_time FROM journals WHERE journal = %s",
        (
            "INSERT INTO audit (tenant, subject, caller, method, request_id, action, resource, why)"
            " SELECT tenant, 's', 'edge', 'm', 'r', 'post_journal', 'journals/' || journal, 'w' FROM journals"
            " WHERE journal = %s"
        ),
    ):
        execute(urls, "accounts", statement, journal)
    return journal


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ("UPDATE journals SET origin = 'transfers/x'", "of kind 4 has the origin transfers/x"),
        ("DELETE FROM audit", "was posted by the bank itself and is not audited"),
        ("DELETE FROM journal_accounts WHERE account = 'b'", "is not found by what it touches: accounts/b"),
        (
            "UPDATE journal_accounts SET account = 'c' WHERE account = 'a'",
            "is not found by what it touches: accounts/c",
        ),
        (
            "UPDATE journal_accounts SET create_time = now() WHERE account = 'a'",
            "is not found by what it touches: accounts/a",
        ),
        ("UPDATE journal_metadata SET create_time = now()", "has metadata, and is none that may have some: run"),
        ("UPDATE journals SET kind = 1, origin = 'o'", "has metadata, and is none that may have some: run"),
    ],
)
def test_a_journal_of_the_banks_own_that_is_not_whole_is_found(urls: Urls, change: str, wrong: str) -> None:
    """What it was posted for, who posted it, and what it is found by."""
    execute(urls, "accounts", "TRUNCATE audit")
    journal = posted_by_the_bank(urls)
    finding = found(urls)["INV-6"]
    assert (finding.violations, finding.checked) == ([], 1)
    execute(urls, "accounts", change)
    assert f"demo/journals/{journal} {wrong}" in found(urls)["INV-6"].violations
    execute(urls, "accounts", "TRUNCATE audit")


def test_a_right_too_many_is_found(urls: Urls) -> None:
    """INV-4 is about what the role may do, not about what the code does."""
    execute(urls, "accounts", "GRANT UPDATE ON entries TO accounts_runtime")
    assert found(urls)["INV-4"].violations == ["accounts_runtime may UPDATE entries"]


def test_the_verdict_is_told_for_people_and_for_programs(urls: Urls) -> None:
    """How much was checked, and the first of what is wrong."""
    for _ in range(7):
        transfer(urls, "COMPLETED", "journals/lost")
    findings = verify.verify_databases(urls)
    text = verify.as_text(findings)
    assert "INV-6  BROKEN 7×" in text
    assert text.count("journals/lost") == 5
    told = json.loads(json.dumps(verify.as_json(findings)))
    assert told["holds"] is False
    assert next(one for one in told["invariants"] if one["name"] == "INV-6")["checked"] == 7


def payment_file(urls: Urls, *, items: Sequence[tuple[str, str]], **counts: int) -> None:
    """A file of payments with items of (state, transfer's id), and what it says of their number."""
    given = {
        name: counts.get(name, 0) for name in ("waiting", "under_way", "completed", "declined", "refused", "cancelled")
    }
    execute(
        urls,
        "transactions",
        "INSERT INTO payment_files (tenant, id, version, state, format, subject, scopes, message_id, message_key,"
        " initiating_party, sha256, size_bytes, items, waiting, under_way, completed, declined, refused, cancelled,"
        " create_time, update_time) VALUES ('demo', 'f', 1, 'PROCESSING', 'CSV', 'ada', '', 'm', %s, '', '', 1, %s, %s,"
        " %s, %s, %s, %s, %s, now(), now())",
        uuid.uuid4(),
        sum(given.values()),
        *given.values(),
    )
    for number, (state, transfer_of) in enumerate(items, 1):
        execute(
            urls,
            "transactions",
            "INSERT INTO payment_file_items (tenant, file, number, line, state, information_id, instruction_id,"
            " end_to_end_id, amount, currency, transfer, status)"
            " VALUES ('demo', 'f', %s, 1, %s, '', '', '', '1', 'EUR', %s, %s)",
            number,
            state,
            transfer_of,
            b"" if state in ("DECLINED", "REFUSED") else None,
        )


def item_transfer(urls: Urls, state: str, number: int) -> str:
    """A transfer that was made for an item of the file."""
    id_ = transfer(urls, state, "journals/j" if state == "COMPLETED" else "")
    execute(urls, "transactions", "UPDATE transfers SET request_id = %s WHERE id = %s", f"paymentFiles/f/{number}", id_)
    return id_


def test_a_file_of_payments_whose_items_are_as_it_says_holds(urls: Urls) -> None:
    """Its counts are those of its items, and each that ended has a transfer of its own that ended so."""
    paid, declined = item_transfer(urls, "COMPLETED", 1), item_transfer(urls, "DECLINED", 2)
    payment_file(
        urls, items=[("COMPLETED", paid), ("DECLINED", declined), ("REFUSED", "")], completed=1, declined=1, refused=1
    )
    assert not found(urls)["INV-5"].violations


@pytest.mark.parametrize(
    ("states", "counts", "words"),
    [
        (["REFUSED", "REFUSED"], {"refused": 1}, "counts 0,0,0,0,1,0, items 0,0,0,0,2,0"),
        ([], {"refused": 1}, "counts 0,0,0,0,1,0, items"),
        (["COMPLETED"], {"completed": 1}, "its transfer DECLINED"),
        (["DECLINED"], {"declined": 1}, "its transfer is not there"),
    ],
)
def test_a_file_of_payments_that_disagrees_with_its_items_or_transfers_is_found(
    urls: Urls, states: list[str], counts: dict[str, int], words: str
) -> None:
    """What was counted wrongly, an item that says of its transfer what is not so, and one without a transfer."""
    made = {"COMPLETED": item_transfer(urls, "DECLINED", 1), "DECLINED": "nowhere"}
    payment_file(urls, items=[(state, made.get(state, "")) for state in states], **counts)
    (violation,) = found(urls)["INV-5"].violations
    assert words in violation


def test_two_items_may_not_have_one_transfer(urls: Urls) -> None:
    """A transfer that is of another item is found, by its request_id."""
    paid = item_transfer(urls, "COMPLETED", 1)
    payment_file(urls, items=[("COMPLETED", paid), ("COMPLETED", paid)], completed=2)
    (violation,) = found(urls)["INV-5"].violations
    assert "paymentFiles/f/2" in violation
