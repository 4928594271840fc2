"""The past over gRPC: what callers see, and each refusal."""

from __future__ import annotations

import uuid
from datetime import timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from florin.accounts.v1 import account_pb2, journal_pb2
from florin.accounts.v1 import account_service_pb2 as pb
from florin.accounts.v1 import ledger_service_pb2 as ledger_pb
from florin.common.v1 import money_pb2, principal_pb2
from meshkit import clock
from tests.integration.accounts.conftest import Service, refusal

SETTLEMENT, INTERNAL = account_pb2.ACCOUNT_TYPE_SETTLEMENT, account_pb2.ACCOUNT_TYPE_INTERNAL


async def post(service: Service, account: str, amount: int, effective_time: Timestamp | None = None) -> None:
    """Posts a journal from "bank", dated if asked."""
    legs = [
        ledger_pb.JournalLeg(account=f"accounts/{name}", amount=money_pb2.Money(currency_code="EUR", minor_units=units))
        for name, units in (("bank", -amount), (account, amount))
    ]
    step = ledger_pb.JournalStep(
        key=str(uuid.uuid4()),
        principal=principal_pb2.Principal(tenant=service.tenant, subject="s", scopes=["ledger:fund"]),
        kind=journal_pb2.JOURNAL_KIND_TRANSFER,
        origin="transfers/t",
        legs=legs,
        effective_time=effective_time,
    )
    answer = await service.internal.PostJournals(ledger_pb.PostJournalsRequest(steps=[step]), timeout=5)
    assert answer.outcomes[0].WhichOneof("result") == "journal", answer


def ago(days: float) -> Timestamp:
    """A time in the past; in the future if negative."""
    return clock.timestamp(clock.now() - timedelta(days=days))


async def test_the_past_is_read_by_each_of_its_three_clocks(service: Service) -> None:
    """By recorded time, by effective time, by sequence: balance and entries agree, over pages too."""
    await service.account("bank", type_=SETTLEMENT)
    await service.account("main", type_=INTERNAL)
    await post(service, "main", 100)
    await post(service, "main", 20, ago(3))
    await post(service, "main", 3, ago(-3))
    entries = (await service.call("ListEntries", pb.ListEntriesRequest(account="accounts/main"))).entries
    second = entries[1].create_time
    for as_of, posted, sequences in (
        ({"as_of_recorded_time": second}, 120, [2, 1]),
        ({"as_of_effective_time": ago(1)}, 20, [2]),
        ({"as_of_effective_time": ago(0)}, 120, [2, 1]),
        ({"as_of_sequence": 1}, 100, [1]),
        ({"as_of_sequence": 0}, 0, []),
        ({"as_of_recorded_time": Timestamp(seconds=-62_135_596_800)}, 0, []),
        ({"as_of_effective_time": Timestamp(seconds=-62_135_596_800)}, 0, []),
    ):
        balance = (await service.call("GetBalance", pb.GetBalanceRequest(name="accounts/main", **as_of))).balance
        assert balance.posted == money_pb2.Money(currency_code="EUR", minor_units=posted), as_of
        assert not balance.HasField("held")
        assert not balance.HasField("available")
        request, found = pb.ListEntriesRequest(account="accounts/main", page_size=1, **as_of), []
        while True:
            page = await service.call("ListEntries", request)
            found += [entry.sequence for entry in page.entries]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert found == sequences, as_of


async def test_the_past_is_refused_in_the_documented_order(service: Service) -> None:
    """Two moments at once, what is no moment, accounts that are not the caller's, and what has not come yet."""
    await service.account("bank", type_=SETTLEMENT)
    await service.customer("acme")
    await service.account("mine", "acme")
    both = {"as_of_recorded_time": ago(1), "as_of_effective_time": ago(1)}
    invalid = [
        both,
        {"as_of_recorded_time": ago(1), "as_of_sequence": 0},
        {"as_of_effective_time": ago(1), "as_of_sequence": 0},
        {**both, "as_of_sequence": 0},
        {"as_of_sequence": -1},
        {"as_of_recorded_time": Timestamp(seconds=10**15)},
        {"as_of_effective_time": Timestamp(seconds=-(10**15))},
        {"as_of_effective_time": Timestamp(nanos=-1)},
    ]
    future = [
        {"as_of_recorded_time": ago(-1)},
        {"as_of_effective_time": ago(-1)},
        {"as_of_effective_time": Timestamp(seconds=253_402_300_799)},
        {"as_of_sequence": 1},
        {"as_of_sequence": 2**63 - 1},
    ]
    cases = [(as_of, "mine", "REQUEST_INVALID") for as_of in invalid]
    cases += [(as_of, "mine", "AS_OF_FUTURE") for as_of in future]
    cases += [(as_of, "bank", "ACCOUNT_NOT_FOUND") for as_of in future]
    cases += [(as_of, "nobody", "ACCOUNT_NOT_FOUND") for as_of in future]
    for as_of, name, expected in cases:
        balance = pb.GetBalanceRequest(name=f"accounts/{name}", **as_of)
        entries = pb.ListEntriesRequest(account=f"accounts/{name}", page_token="x", **as_of)
        for method, request in (("GetBalance", balance), ("ListEntries", entries)):
            found = await refusal(service.call(method, request, "customer", customer="customers/acme"))
            assert found == expected, (method, as_of, name)


async def test_a_page_token_belongs_to_its_moment(service: Service) -> None:
    """A token of one moment is refused for another, and for the present."""
    await service.account("bank", type_=SETTLEMENT)
    await service.account("main", type_=INTERNAL)
    for _ in range(3):
        await post(service, "main", 1)
    first = pb.ListEntriesRequest(account="accounts/main", page_size=1, as_of_sequence=3)
    token = (await service.call("ListEntries", first)).next_page_token
    for other in ({"as_of_sequence": 2}, {}, {"as_of_recorded_time": ago(0)}):
        request = pb.ListEntriesRequest(account="accounts/main", page_token=token, **other)
        assert await refusal(service.call("ListEntries", request)) == "PAGE_TOKEN_INVALID"


async def test_a_sum_of_some_entries_that_no_amount_can_hold_is_refused(service: Service) -> None:
    """Credits that count while the debits between them do not yet: AMOUNT_OVERFLOW, not a wrong figure."""
    await service.account("bank", type_=SETTLEMENT)
    await service.account("main", type_=INTERNAL)
    most = 9 * 10**18
    await post(service, "main", most)
    await post(service, "main", -most, ago(-1))
    await post(service, "main", most)
    request = pb.GetBalanceRequest(name="accounts/main", as_of_effective_time=ago(0))
    assert await refusal(service.call("GetBalance", request)) == "AMOUNT_OVERFLOW"
