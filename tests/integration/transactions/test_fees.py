"""Fees on a real database: decided once, held with the amount, charged by captures, given back, cached with a bound."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from psycopg.errors import InsufficientPrivilege
from sqlalchemy.exc import ProgrammingError

from florin.transactions.v1 import events_pb2
from meshkit import clock
from meshkit.errors import DomainError, EtagMismatch, RecordedRefusal, RequestIdReused, RequestInvalid
from tests.integration.transactions.conftest import Replica, call_of
from tests.integration.transactions.test_authorizations import capture, capturing, order, void
from tests.integration.transactions.test_recovery import POINTS, dies, restarted
from tests.unit.transactions.making import TELLER, transfer
from tests.unit.transactions.test_fees import schedule
from transactions import fee_operations, fee_store, tariffs
from transactions.errors import AccountNotFound, AccountTypeWrong, CurrencyMismatch
from transactions.fees import FREE_SCOPE, FeeSchedule, Kind, Rounding
from transactions.model import AccountType, Fee, State, Transfer, Verdict

REVERSE = "/florin.transactions.v1.TransferService/ReverseTransfer"


async def set_schedule(replica: Replica, **changes: Any) -> FeeSchedule:
    """SetFeeSchedule, known to the replica at once: 1.00 EUR and a quarter of a percent, at most 5.00 EUR."""
    moment = clock.now()
    etag = changes.pop("etag", "")
    wanted = schedule(**{"start_time": moment, "create_time": moment, **changes})
    call = call_of(replace(TELLER, tenant=wanted.tenant))
    made = await replica.db.run(wanted.tenant, lambda conn: fee_operations.set_fee_schedule(conn, call, wanted, etag))
    await replica.tariffs.refresh()
    return made


def paying(amount: int = 1000, **changes: Any) -> Transfer:
    """A transfer that is made now, as schedules begin now."""
    moment = clock.now()
    return transfer(amount=amount, **{"create_time": moment, "update_time": moment, **changes})


def reversing(of: Transfer, amount: int = 0, request_id: str = "back") -> Transfer:
    """A reversal of all of it, or of a part."""
    blank = {"debit_account": "", "credit_account": "", "currency": "", "creditor_name": "", "end_to_end_id": ""}
    return transfer(request_id=f"{request_id}-{of.id}", reversal_of=of.id, amount=amount, remittance="error", **blank)


async def reverse(replica: Replica, back: Transfer, *, return_fee: bool = False) -> Transfer:
    """ReverseTransfer."""
    call = call_of(TELLER, back.request_id, REVERSE)
    return await replica.transfers.reverse(back.reversal_of, back, call, return_fee=return_fee)


async def events(replica: Replica, of: Transfer, subject: str, kind: type[Any]) -> list[Any]:
    """The messages of a transfer's events of one type."""
    rows = await replica.query(
        f"SELECT data FROM outbox WHERE aggregate = '{of.name}' AND subject = 'florin.transactions.{subject}.v1'"
    )
    return [kind.FromString(bytes(row[0])) for row in rows]


@pytest.fixture
def replica(replica: Replica) -> Replica:
    """With an account for fees."""
    replica.ledger.open("fees", type_=AccountType.FEE)
    return replica


def balances(replica: Replica) -> tuple[int, int, int]:
    """Of payer, payee and fee account."""
    return tuple(replica.ledger.balances[f"accounts/{name}"] for name in ("a", "b", "fees"))  # type: ignore[return-value]


async def test_the_payer_pays_the_fee_beside_the_amount_in_one_journal(replica: Replica) -> None:
    """Row and events name the version that priced it; a transfer of before the schedule costs nothing."""
    free = await replica.create(paying())
    made = await set_schedule(replica)
    paid = await replica.create(paying())
    assert (free.fee, paid.state) == (None, State.COMPLETED)
    assert paid.fee == Fee(102, "feeSchedules/payment-eur", made.version, "accounts/fees")
    assert (await replica.row(paid)).fee == paid.fee
    assert balances(replica) == (1_000_000 - 2000 - 102, 2000, 102)
    assert replica.ledger.journals[paid.name] == 1
    for subject, kind in (
        ("transfer_accepted", events_pb2.TransferAccepted),
        ("transfer_completed", events_pb2.TransferCompleted),
    ):
        (told,) = await events(replica, paid, subject, kind)
        assert (told.fee.amount.minor_units, told.fee.schedule_version) == (102, made.version)
        (told,) = await events(replica, free, subject, kind)
        assert not told.HasField("fee")


async def test_funds_have_to_cover_the_fee_too(replica: Replica) -> None:
    """The amount alone is not enough, and nothing of either moves."""
    await set_schedule(replica)
    replica.ledger.balances["accounts/poor"] = 1101
    with pytest.raises(RecordedRefusal, match="not enough"):
        await replica.create(paying(debit_account="accounts/poor"))
    assert (replica.ledger.balances["accounts/poor"], replica.ledger.balances["accounts/fees"]) == (1101, 0)
    replica.ledger.balances["accounts/poor"] = 1102
    await replica.create(paying(debit_account="accounts/poor"))
    assert replica.ledger.balances["accounts/poor"] == 0


async def test_a_copy_of_a_request_costs_what_the_first_one_did(replica: Replica) -> None:
    """Whatever the schedule says by then; twenty copies at once are one payment with one fee."""
    await set_schedule(replica)
    wanted = paying(request_id="copied")
    first = await replica.create(wanted)
    await set_schedule(replica, fixed=300)
    answers = await asyncio.gather(*(replica.create(replace(wanted, create_time=clock.now())) for _ in range(20)))
    assert {answer.fee for answer in answers} == {first.fee}
    assert replica.ledger.balances["accounts/fees"] == 102


@pytest.mark.parametrize("point", POINTS)
async def test_who_recovers_charges_what_was_decided(replica: Replica, point: str) -> None:
    """A process dies, the price changes, and another one finishes the transfer at the old price, once."""
    made = await set_schedule(replica)
    wanted = paying()
    await dies(replica, point, [wanted])
    await set_schedule(replica, fixed=400)
    other = restarted(replica)
    await other.hurry()
    await other.recovery.before_ready()
    row = await other.row(wanted)
    assert (row.state, row.fee_amount, row.fee and row.fee.version) == (State.COMPLETED, 102, made.version)
    assert balances(replica) == (1_000_000 - 1102, 1000, 102)


async def test_a_review_holds_the_fee_with_the_amount(replica: Replica) -> None:
    """Approved, both move; rejected, both are given back."""
    await set_schedule(replica)
    for verdict, fee in ((Verdict.REJECTED, 0), (Verdict.APPROVED, 350)):
        held = await replica.create(paying(100_000))
        assert held.state is State.IN_REVIEW
        assert replica.ledger.available("accounts/a") == 1_000_000 - 100_350
        await replica.verdict(held, verdict)
        await replica.hurry()
        await replica.recovery.before_ready()
        assert replica.ledger.active_holds() == 0
        assert replica.ledger.balances["accounts/fees"] == fee


async def test_captures_charge_their_part_of_what_was_held(replica: Replica) -> None:
    """The version that priced the authorization counts, also when another one came meanwhile."""
    made = await set_schedule(replica, kind=Kind.AUTHORIZATION)
    held = await replica.create(order(100_00, create_time=clock.now()))
    assert (held.state, held.fee_amount) == (State.AUTHORIZED, 125)
    assert replica.ledger.available("accounts/a") == 1_000_000 - 10_125
    await set_schedule(replica, kind=Kind.AUTHORIZATION, fixed=400)
    first = await capture(replica, capturing(held, 40_00))
    assert first.fee == Fee(110, "feeSchedules/authorization-eur", made.version, "accounts/fees")
    assert replica.ledger.available("accounts/a") == 1_000_000 - 10_125
    second = await capture(replica, capturing(held, 20_00))
    assert second.fee_amount == 5
    last = await capture(replica, capturing(held))
    assert (last.amount, last.fee_amount, last.final_capture) == (40_00, 10, True)
    assert balances(replica) == (1_000_000 - 10_125, 10_000, 125)
    assert (await replica.row(held)).state is State.CAPTURED
    assert replica.ledger.active_holds() == 0


async def test_what_is_not_captured_costs_nothing(replica: Replica) -> None:
    """A void gives the fee back with the amount; a final capture gives back what of both is left."""
    await set_schedule(replica, kind=Kind.AUTHORIZATION)
    await void(replica, await replica.create(order(100_00, create_time=clock.now())))
    assert replica.ledger.available("accounts/a") == 1_000_000
    held = await replica.create(order(100_00, create_time=clock.now()))
    await capture(replica, capturing(held, 8_00, final_capture=True))
    assert balances(replica) == (1_000_000 - 902, 800, 102)
    assert replica.ledger.active_holds() == 0


async def test_an_authorization_without_a_fee_has_captures_without_one(replica: Replica) -> None:
    """What it costs was decided when it was accepted."""
    held = await replica.create(order(100_00, create_time=clock.now()))
    await set_schedule(replica, kind=Kind.AUTHORIZATION)
    await set_schedule(replica)
    assert (await capture(replica, capturing(held))).fee is None


@pytest.mark.parametrize(("amount", "moved"), [(0, 1000), (400, 400)])
@pytest.mark.parametrize("return_fee", [False, True])
async def test_a_reversal_gives_the_fee_back_where_it_is_asked_to(
    replica: Replica, amount: int, moved: int, return_fee: bool
) -> None:
    """All of it, also where a part of the amount goes back; the event of the reversal tells so."""
    await set_schedule(replica)
    paid = await replica.create(paying())
    back = await reverse(replica, reversing(paid, amount), return_fee=return_fee)
    assert (back.state, back.fee) == (State.COMPLETED, paid.fee if return_fee else None)
    kept = 0 if return_fee else 102
    assert balances(replica) == (1_000_000 - 1000 + moved - kept, 1000 - moved, kept)
    (told,) = await events(replica, back, "transfer_completed", events_pb2.TransferCompleted)
    assert (told.HasField("returned_fee"), told.HasField("fee")) == (return_fee, False)
    assert (await replica.row(paid)).state is State.REVERSED


async def test_there_is_nothing_to_give_back_of_what_cost_nothing(replica: Replica) -> None:
    """Asking for it is no error."""
    paid = await replica.create(paying())
    assert (await reverse(replica, reversing(paid), return_fee=True)).fee is None


async def test_a_reversal_costs_nothing(replica: Replica) -> None:
    """A schedule prices what users order, not what takes it back."""
    paid = await replica.create(paying())
    await set_schedule(replica)
    assert (await reverse(replica, reversing(paid))).fee is None


async def test_other_kinds_currencies_and_tenants_are_not_priced(replica: Replica) -> None:
    """Nor is what the bank does with its own accounts."""
    await set_schedule(replica, kind=Kind.AUTHORIZATION)
    await set_schedule(replica, currency="USD")
    await set_schedule(replica, tenant="other")
    assert (await replica.create(paying())).fee is None
    await set_schedule(replica)
    bank = replace(TELLER, scopes=TELLER.scopes | {FREE_SCOPE})
    assert (await replica.create(paying(principal=bank))).fee is None


async def test_a_batch_prices_each_item_by_its_own(replica: Replica) -> None:
    """Items that cost something and items that do not are recorded by one statement."""
    await set_schedule(replica, kind=Kind.AUTHORIZATION)
    items = [paying(), order(100_00, create_time=clock.now()), paying(2000)]
    results = await replica.transfers.orders.create_batch(items, time.monotonic() + 5)
    assert [result.fee_amount for result in results if isinstance(result, Transfer)] == [0, 125, 0]


async def test_what_another_replica_set_is_known_within_the_bound(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that was told nothing prices by what it knows, and reads again before it prices by what is too old."""
    await replica.create(paying())
    moment = clock.now()
    wanted = schedule(start_time=moment, create_time=moment)
    await replica.db.run("demo", lambda conn: fee_store.next_version(conn, "demo", Kind.PAYMENT, "EUR"))
    await replica.db.run("demo", lambda conn: fee_store.add_version(conn, wanted))
    assert (await replica.create(paying())).fee is None
    monkeypatch.setattr(tariffs, "KNOWN_FOR_SECONDS", 0.0)
    assert (await replica.create(paying())).fee_amount == 102


async def test_a_version_prices_from_its_start_on_whoever_knows_it_when(replica: Replica) -> None:
    """The moment at which a transfer was made decides, not the one at which it is recorded."""
    before = await set_schedule(replica)
    begins = clock.now() + timedelta(hours=1)
    after = await set_schedule(replica, fixed=200, start_time=begins)
    assert (after.version, after.start_time) == (before.version + 1, begins)
    assert (await replica.create(paying())).fee_amount == 102
    assert (await replica.create(paying(create_time=begins))).fee_amount == 202
    assert (await replica.create(paying(create_time=begins - timedelta(microseconds=1)))).fee_amount == 102


async def test_versions_are_numbered_audited_told_and_never_changed(replica: Replica) -> None:
    """Ten at once are ten versions, each with its event and its audit row; the service may change none."""
    await asyncio.gather(*(set_schedule(replica, fixed=number) for number in range(10)))
    rows = await replica.query("SELECT version FROM fee_schedule_versions ORDER BY version")
    assert [row[0] for row in rows] == list(range(1, 11))
    told = await replica.query(
        "SELECT version FROM outbox WHERE aggregate = 'feeSchedules/payment-eur' ORDER BY version"
    )
    assert [row[0] for row in told] == list(range(1, 11))
    audited = await replica.query("SELECT before, after FROM audit WHERE action = 'set_fee_schedule'")
    assert sorted(row[1]["version"] for row in audited) == list(range(1, 11))
    assert sum(row[0] is None for row in audited) == 1
    for statement in ("UPDATE fee_schedule_versions SET fixed = 0", "DELETE FROM fee_schedule_versions"):
        with pytest.raises(ProgrammingError) as refused:
            await replica.query(f"{statement} RETURNING 1")
        assert isinstance(refused.value.orig, InsufficientPrivilege)


async def test_who_looked_at_an_older_version_is_refused(replica: Replica) -> None:
    """The etag is the version; nothing is written."""
    first = await set_schedule(replica)
    await set_schedule(replica, etag=str(first.version))
    with pytest.raises(EtagMismatch):
        await set_schedule(replica, etag=str(first.version))
    assert len(await replica.query("SELECT 1 FROM fee_schedule_versions")) == 2


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"account": "accounts/nobodys"}, AccountNotFound),
        ({"account": "accounts/yen"}, CurrencyMismatch),
        ({"account": "accounts/b"}, AccountTypeWrong),
        ({"start_time": clock.now() + timedelta(days=400)}, RequestInvalid),
    ],
)
async def test_a_schedule_that_could_not_be_charged_is_refused(
    replica: Replica, changes: dict[str, Any], refusal: type[DomainError]
) -> None:
    """Its account has to be a fee account in its currency, its start within a year."""
    with pytest.raises(refusal):
        await fee_operations.check(replica.ledger, schedule(create_time=clock.now(), **changes))


async def test_a_reversal_means_one_thing_with_its_fee_and_without(replica: Replica) -> None:
    """Another payload under the same request_id is refused."""
    await set_schedule(replica)
    paid = await replica.create(paying())
    back = reversing(paid)
    assert (await reverse(replica, back, return_fee=True)).fee == paid.fee
    assert (await reverse(replica, back, return_fee=True)).fee == paid.fee
    with pytest.raises(RequestIdReused):
        await reverse(replica, replace(back, fingerprint=b"x" * 32))
    assert replica.ledger.balances["accounts/fees"] == 0


async def test_what_is_read_for_pricing_is_what_can_still_price(replica: Replica) -> None:
    """Versions that a later one took the place of long ago are left out; those to come are in."""
    old = clock.now() - timedelta(days=1)
    for number, start in enumerate((old, old + timedelta(hours=1), old + timedelta(days=2)), 1):
        one = schedule(version=number, start_time=start, rounding=Rounding.UP)
        await replica.db.run("demo", lambda conn, one=one: fee_store.add_version(conn, one))  # type: ignore[misc]
    found = await replica.db.run("*", fee_store.read_in_use, read_only=True)
    assert sorted(one.version for one in found) == [2, 3]
