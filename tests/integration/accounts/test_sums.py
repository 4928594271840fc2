"""Balances added up: by what, for whom, at one moment, and page by page."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from accounts import sums_store
from accounts.model import AccountType
from florin.accounts.v1 import account_pb2
from florin.accounts.v1 import balance_service_pb2 as pb
from meshkit.database import Database
from tests.integration.accounts.conftest import Ledger, Service, refusal
from tests.integration.accounts.test_limits import sql

CURRENCY, TYPE, CUSTOMER = pb.ROLL_UP_KEY_CURRENCY, pb.ROLL_UP_KEY_ACCOUNT_TYPE, pb.ROLL_UP_KEY_CUSTOMER


async def bank_of_three(service: Service, db: Database) -> None:
    """Customers "anna" with EUR and USD, "ben" with EUR, and a joint account of both in EUR."""
    for name in ("anna", "ben"):
        await service.customer(name)
    await service.account("bank", type_=account_pb2.ACCOUNT_TYPE_SETTLEMENT)
    await service.account("a-eur", "anna", overdraft_limit_minor_units=50)
    await service.account("a-usd", "anna", currency_code="USD")
    await service.account("b-eur", "ben")
    await service.account("joint", "anna")
    await sql(
        db,
        service,
        "INSERT INTO account_owners SELECT tenant, account, 'ben' FROM accounts WHERE account = 'joint' RETURNING 1",
    )
    await sql(db, service, "UPDATE accounts SET state = 2 WHERE state = 1 RETURNING 1")
    for account, amount in (("a-eur", 100), ("b-eur", 30), ("joint", 7)):
        await service.call("FundAccount", service.fund(account, amount, account))
    await sql(db, service, "UPDATE accounts SET held = 10 WHERE account = 'a-eur' RETURNING 1")


async def roll_up(service: Service, key: Any, *, page_size: int = 0, **values: Any) -> list[tuple[Any, ...]]:
    """All pages of sums as (customer, type, currency, accounts, posted, held, available)."""
    found: list[tuple[Any, ...]] = []
    token = ""
    filters = {"customer": values.pop("of")} if "of" in values else {}
    role = values.pop("role", "auditor")
    while True:
        request = pb.RollUpBalancesRequest(key=key, page_size=page_size, page_token=token, **filters)
        page = await service.call("RollUpBalances", request, role, **values)
        assert page_size == 0 or len(page.sums) <= page_size
        found += [
            (
                one.customer.removeprefix("customers/"),
                one.account_type,
                one.currency_code,
                one.account_count,
                one.posted.minor_units,
                one.held.minor_units,
                one.available.minor_units,
            )
            for one in page.sums
        ]
        token = page.next_page_token
        if not token:
            return found


async def test_balances_are_added_up_by_each_key(service: Service, db: Database) -> None:
    """One currency at a time; an account of two owners counts for both of them; page by page it is the same."""
    await bank_of_three(service, db)
    expected = {
        CURRENCY: [("", 0, "EUR", 4, 0, 10, 40), ("", 0, "USD", 1, 0, 0, 0)],
        TYPE: [("", 1, "EUR", 3, 137, 10, 177), ("", 1, "USD", 1, 0, 0, 0), ("", 3, "EUR", 1, -137, 0, -137)],
        CUSTOMER: [
            ("anna", 0, "EUR", 2, 107, 10, 147),
            ("anna", 0, "USD", 1, 0, 0, 0),
            ("ben", 0, "EUR", 2, 37, 0, 37),
        ],
    }
    for key, sums in expected.items():
        assert await roll_up(service, key) == sums
        assert await roll_up(service, key, page_size=1) == sums
        assert await roll_up(service, key, page_size=2) == sums


async def test_a_customer_adds_up_own_accounts_alone(service: Service, db: Database) -> None:
    """Staff may ask for one customer; a customer who asks for another gets nothing, in the shape of nothing."""
    await bank_of_three(service, db)
    as_ben = {"role": "customer", "customer": "customers/ben"}
    assert await roll_up(service, CURRENCY, **as_ben) == [("", 0, "EUR", 2, 37, 0, 37)]
    assert await roll_up(service, TYPE, **as_ben) == [("", 1, "EUR", 2, 37, 0, 37)]
    assert await roll_up(service, CUSTOMER, **as_ben) == [("ben", 0, "EUR", 2, 37, 0, 37)]
    assert await roll_up(service, CUSTOMER, of="customers/anna", **as_ben) == []
    anna = [("anna", 0, "EUR", 2, 107, 10, 147), ("anna", 0, "USD", 1, 0, 0, 0)]
    assert await roll_up(service, CUSTOMER, of="customers/anna") == anna
    assert await roll_up(service, CUSTOMER, of="customers/anna", page_size=1) == anna
    assert await roll_up(service, CUSTOMER, of="customers/nobody") == []
    assert await roll_up(service, CURRENCY, tenant=f"{service.tenant}x"[:31]) == []


async def test_pages_of_customers_hold_every_one_once(service: Service, db: Database) -> None:
    """Also where customers have several currencies and a page ends between them."""
    for number in range(7):
        await service.customer(f"c{number}")
        for currency in ("EUR", "JPY", "USD")[: number % 3 + 1]:
            await service.account(f"a{number}-{currency.lower()}", f"c{number}", currency_code=currency)
    whole = await roll_up(service, CUSTOMER)
    assert [row[:3:2] for row in whole] == [
        (f"c{number}", currency) for number in range(7) for currency in ("EUR", "JPY", "USD")[: number % 3 + 1]
    ]
    for size in (1, 2, 3, 5):
        assert await roll_up(service, CUSTOMER, page_size=size) == whole


async def test_a_sum_is_of_one_moment(ledger: Ledger) -> None:
    """While money moves to and fro, what two customers have together never changes."""
    for name in ("a", "b"):
        await ledger.open(name, 500, type=AccountType.CUSTOMER)

    async def move(pairs: itertools.cycle[tuple[str, str]]) -> None:
        for _ in range(40):
            payer, payee = next(pairs)
            await ledger.apply(ledger.post((payer, -3), (payee, 3)))

    async def add_up() -> set[int]:
        found = set()
        for _ in range(40):
            page = await ledger.db.run(
                ledger.tenant,
                lambda conn: sums_store.by_type(conn, ledger.tenant, customer=None, after=(0, ""), limit=10),
                read_only=True,
            )
            found |= {one.posted for one in page.sums if one.type is AccountType.CUSTOMER}
        return found

    pairs = itertools.cycle([("a", "b"), ("b", "a"), ("b", "a"), ("a", "b")])
    _, found = await asyncio.gather(move(pairs), add_up())
    assert found == {1000}


async def test_a_sum_beyond_64_bits_is_refused(service: Service, db: Database) -> None:
    """Each balance fits; together they do not, and a wrong sum would be worse than none."""
    for name in ("one", "two"):
        await service.account(name, type_=account_pb2.ACCOUNT_TYPE_INTERNAL)
    await sql(db, service, f"UPDATE accounts SET posted = {2**62} RETURNING 1")
    request = pb.RollUpBalancesRequest(key=CURRENCY)
    assert await refusal(service.call("RollUpBalances", request)) == "AMOUNT_OVERFLOW"
    await sql(db, service, "UPDATE accounts SET posted = 0 RETURNING 1")


async def test_page_tokens_belong_to_their_key(service: Service, db: Database) -> None:
    """A token of one list is none of another; a key has to be named."""
    await bank_of_three(service, db)
    first = await service.call("RollUpBalances", pb.RollUpBalancesRequest(key=TYPE, page_size=1))
    for key in (CURRENCY, CUSTOMER):
        mixed = pb.RollUpBalancesRequest(key=key, page_token=first.next_page_token)
        assert await refusal(service.call("RollUpBalances", mixed)) == "PAGE_TOKEN_INVALID"
    assert await refusal(service.call("RollUpBalances", pb.RollUpBalancesRequest())) == "REQUEST_INVALID"


@pytest.mark.parametrize("customer", [None, "anna"])
async def test_no_other_tenants_accounts_are_read(ledger: Ledger, second_ledger: Ledger, customer: str | None) -> None:
    """The plans find a tenant's rows by an index, even for a runtime role that may see all tenants."""
    await ledger.open("mine")
    await second_ledger.open("theirs")
    statements = {
        "type": f"SELECT a.type, {sums_store._SUMS} {sums_store._whose('t', customer)[0]} GROUP BY a.type, a.currency",
        "customer": sums_store._BY_CUSTOMER if customer is None else sums_store._BY_ONE_CUSTOMER,
    }
    parameters: dict[str, tuple[object, ...]] = {
        "type": sums_store._whose(ledger.tenant, customer)[1],
        "customer": (
            (ledger.tenant, "", 3, ledger.tenant, "", "", 2)
            if customer is None
            else (ledger.tenant, customer, "", "", 2)
        ),
    }
    for name, statement in statements.items():

        async def work(conn: Any, statement: str = statement, name: str = name) -> str:
            await conn.exec_driver_sql("SELECT set_config('enable_seqscan', 'off', true)")
            rows = await conn.exec_driver_sql(f"EXPLAIN {statement}", parameters[name])
            return "\n".join(row[0] for row in rows)

        plan = await ledger.db.run(ledger.tenant, work)
        assert "Seq Scan" not in plan, plan
        assert "(tenant = " in plan, plan
