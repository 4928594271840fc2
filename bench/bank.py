"""Opens the bank that is measured: customers, accounts with money, and policies that every payment is held against."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from bench.calls import CURRENCY
from florin.accounts.v1 import account_pb2, account_service_pb2
from florin.common.v1 import money_pb2
from florin.compliance.v1 import compliance_service_pb2, policy_pb2
from local import demo_bank
from local.client import Edge, Session
from local.demo_bank import Bank, Party
from meshkit import iban

TENANT = "demo"
_FUNDS_MINOR = 10**12
_LIMIT_MINOR = 10**15
"""Limits are looked up, reserved and given back as always, and never reached: a declined payment is another one."""
_AT_ONCE = 16
WATCHLIST = Path(__file__).resolve().parents[1] / "examples" / "watchlist"
_GIVEN = ("Agnes", "Bruno", "Clara", "Emil", "Frieda", "Gregor", "Hedwig", "Ilse", "Jakob", "Karl")
_FAMILY = ("Abendroth", "Brandner", "Czerny", "Dorn", "Ebner", "Falk", "Gruber", "Hollar", "Imhof", "Jelinek")


def parties(count: int) -> tuple[Party, ...]:
    """Customers to be, each with one account and enough money for any run; invented."""
    return tuple(
        Party(
            id=f"bench-{number:04d}",
            name=f"{_GIVEN[number % 10]} {_FAMILY[number // 10 % 10]} {number:04d}",
            iban=iban.with_check_digits("AT", f"{99_000_0000_000_0000 + number}"),
            currency_code=CURRENCY,
            funds_minor=_FUNDS_MINOR,
        )
        for number in range(count)
    )


async def open_bank(edge: Edge, wanted: Sequence[Party]) -> None:
    """Makes it all, through the edge. Raises Refused."""
    bank = demo_bank.staff(edge, TENANT)
    await _set_policies(bank.operator)
    await demo_bank.import_watchlist(bank.operator, WATCHLIST)
    await demo_bank.open_customers(bank, wanted)
    await demo_bank.until_active(bank, wanted)
    await _fund(bank, wanted)


async def _set_policies(operator: Session) -> None:
    """Both kinds of limit and a rule, so that no check of a payment has nothing to do."""
    most = money_pb2.Money(currency_code=CURRENCY, minor_units=_LIMIT_MINOR)
    for kind in (policy_pb2.LIMIT_KIND_PER_PAYMENT, policy_pb2.LIMIT_KIND_PER_DAY):
        limit = compliance_service_pb2.SetLimitRequest(
            limit=policy_pb2.Limit(kind=kind, maximum=most), request_id=f"bench-limit-{kind}"
        )
        await operator.call(operator.compliance.SetLimit, limit)
    rule = compliance_service_pb2.SetRuleRequest(
        rule_id="bench",
        rule=policy_pb2.Rule(
            expression='payment.amount_minor_units > 100000000 && debtor.country_code != "AT"',
            outcome=policy_pb2.RULE_OUTCOME_REVIEW,
            enabled=True,
        ),
        request_id="bench-rule",
    )
    await operator.call(operator.compliance.SetRule, rule)


async def _fund(bank: Bank, wanted: Sequence[Party]) -> None:
    operator = bank.operator
    settlement = demo_bank.settlement_id(CURRENCY)
    opened = account_service_pb2.CreateAccountRequest(
        account_id=settlement,
        type=account_pb2.ACCOUNT_TYPE_SETTLEMENT,
        currency_code=CURRENCY,
        request_id="bench-settlement",
    )
    await operator.call(operator.accounts.CreateAccount, opened)
    limit = asyncio.Semaphore(_AT_ONCE)

    async def fund(party: Party) -> None:
        async with limit:
            request = account_service_pb2.FundAccountRequest(
                account=party.account,
                settlement_account=f"accounts/{settlement}",
                amount=money_pb2.Money(currency_code=CURRENCY, minor_units=party.funds_minor),
                request_id=f"fund-{party.id}",
            )
            await operator.call(operator.accounts.FundAccount, request)

    await asyncio.gather(*map(fund, wanted))
