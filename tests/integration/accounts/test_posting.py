"""Batches on a real database: concurrency, replay across instances, cancellation, holds."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from accounts import orders, posting
from accounts.book import Cancel, Release, Seen
from accounts.model import AccountType
from accounts.posting import Item
from accounts.settings import Settings
from meshkit.batching import Batcher
from meshkit.database import Database
from meshkit.identity import Call, Principal
from tests.integration.accounts.conftest import FUNDER, Ledger, reason


@asynccontextmanager
async def batcher(db: Database) -> Any:
    """A running ledger batcher, as one replica has it."""

    async def process(items: Sequence[Item]) -> Any:
        return await posting.apply_steps(db, items)

    made: Batcher[Item, Any] = Batcher("test-ledger", process, concurrency=1)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def replicas(stack: AsyncExitStack, settings: Settings, number: int) -> list[Batcher[Item, Any]]:
    """Batchers of several replicas, each with a pool of its own."""
    made = []
    for _ in range(number):
        db = await stack.enter_async_context(Database.open(settings))
        made.append(await stack.enter_async_context(batcher(db)))
    return made


async def test_concurrent_transfers_never_overdraw_an_account(ledger: Ledger, settings: Settings) -> None:
    """INV-3: of 200 transfers over two replicas, as many are posted as there is money for."""
    await ledger.open("a", 70, type=AccountType.CUSTOMER)
    await ledger.open("b")
    async with AsyncExitStack() as stack:
        both = await replicas(stack, settings, 2)
        steps = [ledger.post(("a", -1), ("b", 1)) for _ in range(200)]
        outcomes = await asyncio.gather(*(both[number % 2].submit(Item(step)) for number, step in enumerate(steps)))
    posted = [outcome for outcome in outcomes if outcome.HasField("journal")]
    refused = {reason(outcome.refusal) for outcome in outcomes if outcome.HasField("refusal")}
    assert (len(posted), refused) == (70, {"INSUFFICIENT_FUNDS"})
    assert (await ledger.balance("a")).posted == 0
    assert (await ledger.balance("b")).posted == 70
    await ledger.check_books()


async def test_one_key_at_two_replicas_posts_once(ledger: Ledger, settings: Settings) -> None:
    """INV-5: the same keys at the same time give one journal each and one answer."""
    await ledger.open("a", 1000, type=AccountType.CUSTOMER)
    await ledger.open("b")
    steps = [ledger.post(("a", -1), ("b", 1)) for _ in range(60)]
    async with AsyncExitStack() as stack:
        both = await replicas(stack, settings, 2)
        first, second = await asyncio.gather(
            asyncio.gather(*(both[0].submit(Item(step)) for step in steps)),
            asyncio.gather(*(both[1].submit(Item(step)) for step in reversed(steps))),
        )
    assert list(first) == list(reversed(second))
    assert (await ledger.balance("b")).posted == 60
    await ledger.check_books()


async def test_one_key_on_disjoint_accounts_posts_once(ledger: Ledger, settings: Settings) -> None:
    """The key decides even where no account lock makes the two meet."""
    for name in ("a", "b", "c", "d"):
        await ledger.open(name, 100, type=AccountType.CUSTOMER)
    keys = [str(uuid.uuid4()) for _ in range(40)]
    async with AsyncExitStack() as stack:
        both = await replicas(stack, settings, 2)
        first, second = await asyncio.gather(
            asyncio.gather(*(both[0].submit(Item(ledger.post(("a", -1), ("b", 1), key=key))) for key in keys)),
            asyncio.gather(*(both[1].submit(Item(ledger.post(("c", -1), ("d", 1), key=key))) for key in keys)),
        )
    assert first == second
    moved = (await ledger.balance("b")).posted + (await ledger.balance("d")).posted - 200
    assert moved == 40
    await ledger.check_books()


async def test_a_step_and_its_cancellation_agree(ledger: Ledger, settings: Settings) -> None:
    """Whoever comes first, both callers hear the same, and the books say it too."""
    await ledger.open("a", 100, type=AccountType.CUSTOMER)
    await ledger.open("b")
    steps = [ledger.post(("a", -1), ("b", 1)) for _ in range(40)]
    async with AsyncExitStack() as stack:
        both = await replicas(stack, settings, 2)
        done, cancelled = await asyncio.gather(
            asyncio.gather(*(both[0].submit(Item(step)) for step in steps)),
            asyncio.gather(*(both[1].submit(Item(Cancel(ledger.tenant, step.key))) for step in reversed(steps))),
        )
    assert list(done) == list(reversed(cancelled))
    posted = sum(outcome.HasField("journal") for outcome in done)
    assert (await ledger.balance("b")).posted == posted
    await ledger.check_books()


async def test_a_hold_and_its_release_leave_nothing_held(ledger: Ledger, settings: Settings) -> None:
    """Placed and released at two replicas at once: nothing is kept back in the end, and nothing can be later."""
    await ledger.open("a", 100, type=AccountType.CUSTOMER)
    steps = [ledger.place("a", 1) for _ in range(40)]
    async with AsyncExitStack() as stack:
        both = await replicas(stack, settings, 2)
        await asyncio.gather(
            asyncio.gather(*(both[0].submit(Item(step)) for step in steps)),
            asyncio.gather(*(both[1].submit(Item(Release(ledger.tenant, step.key))) for step in steps)),
        )
        again = await both[0].submit_all([Item(step) for step in steps])
    assert (await ledger.balance("a")).held == 0
    for outcome in again:
        assert not isinstance(outcome, BaseException)
        assert outcome.HasField("refusal") or outcome.hold.state == 3
    await ledger.check_books()


async def test_crossing_transfers_do_not_deadlock(ledger: Ledger, settings: Settings) -> None:
    """Replicas that debit and credit the same accounts in opposite order lock them in one order."""
    names = [f"x{number}" for number in range(10)]
    for name in names:
        await ledger.open(name, 1000, type=AccountType.CUSTOMER)
    pairs = list(zip(names, names[1:] + names[:1], strict=True)) * 10
    async with AsyncExitStack() as stack:
        both = await replicas(stack, settings, 2)
        outcomes = await asyncio.gather(
            *(both[0].submit(Item(ledger.post((a, -1), (b, 1)))) for a, b in pairs),
            *(both[1].submit(Item(ledger.post((b, -1), (a, 1)))) for a, b in reversed(pairs)),
        )
    assert all(outcome.HasField("journal") for outcome in outcomes)
    assert [(await ledger.balance(name)).posted for name in names] == [1000] * 10
    await ledger.check_books()


async def test_replicas_that_fund_for_one_request_at_once_agree(ledger: Ledger, settings: Settings) -> None:
    """INV-5 for what is audited in the same transaction: one journal, one audit row, the same answer for all."""
    await ledger.open("settlement", type=AccountType.SETTLEMENT)
    await ledger.open("a")
    async with AsyncExitStack() as stack:
        all_ = await replicas(stack, settings, 4)
        for number in range(10):
            call = Call(
                method="/florin.accounts.v1.LedgerService/FundAccount",
                caller="edge",
                principal=Principal(ledger.tenant, "teller", None, frozenset({"ledger:fund"})),
                request_id=f"fund-{number}",
                fingerprint=b"same",
                deadline=float("inf"),
            )
            step = orders.funding_step(
                call,
                account="accounts/a",
                settlement_account="accounts/settlement",
                currency="EUR",
                amount=10,
                reference="",
            )
            outcomes = await asyncio.gather(*(one.submit(Item(step, call)) for one in all_))
            assert {outcome.journal.journal for outcome in outcomes} == {outcomes[0].journal.journal} != {""}
    assert (await ledger.balance("a")).posted == 100
    assert await ledger.rows("SELECT count(*) FROM audit WHERE action = 'fund_account'") == [(10,)]
    await ledger.check_books()


async def test_refusals_are_stored_outcomes_too(ledger: Ledger) -> None:
    """A declined journal stays declined when there is money later."""
    await ledger.open("a", type=AccountType.CUSTOMER)
    await ledger.open("b")
    step = ledger.post(("a", -50), ("b", 50))
    first = (await ledger.apply(step))[0]
    assert reason(first.refusal) == "INSUFFICIENT_FUNDS"
    await ledger.apply(ledger.post(("bank", -100), ("a", 100), actor=FUNDER))
    assert (await ledger.apply(step))[0] == first
    assert (await ledger.balance("a")).posted == 100


async def test_a_hold_is_answered_as_it_is_now(ledger: Ledger) -> None:
    """The replay of a hold step shows what became of the hold; a journal consumes it."""
    await ledger.open("a", 100, type=AccountType.CUSTOMER)
    await ledger.open("b")
    hold = ledger.place("a", 100)
    assert (await ledger.apply(hold))[0].hold.state == 1
    assert (await ledger.balance("a")).available == 0
    outcome = (await ledger.apply(ledger.post(("a", -80), ("b", 80), hold=hold.key)))[0]
    assert outcome.HasField("journal")
    assert (await ledger.apply(hold))[0].hold.state == 2
    assert reason((await ledger.apply(Release(ledger.tenant, hold.key)))[0].refusal) == "HOLD_NOT_ACTIVE"
    assert (await ledger.balance("a")).available == 20
    await ledger.check_books()


async def test_a_batch_may_place_and_end_a_hold_and_repeat_keys(ledger: Ledger) -> None:
    """Everything that can meet in one batch is written as if it had come one after the other."""
    await ledger.open("a", 100, type=AccountType.CUSTOMER)
    await ledger.open("b")
    hold, other = ledger.place("a", 60), ledger.place("a", 40)
    step = ledger.post(("a", -60), ("b", 60), hold=hold.key)
    outcomes = await ledger.apply(hold, other, step, step, Release(ledger.tenant, other.key), hold)
    assert outcomes[2] == outcomes[3]
    assert [outcomes[position].hold.state for position in (0, 1, 4, 5)] == [1, 1, 3, 2]
    states = dict(await ledger.rows("SELECT hold::text, state FROM holds"))
    assert states == {hold.key: 2, other.key: 3}
    events = await ledger.rows(
        "SELECT aggregate, version, subject FROM outbox WHERE subject LIKE '%%hold%%' ORDER BY aggregate, version"
    )
    assert [event[1:] for event in events] == [
        (1, "florin.accounts.hold_placed.v1"),
        (2, "florin.accounts.hold_ended.v1"),
    ] * 2
    await ledger.check_books()


async def test_one_batch_serves_several_tenants(ledger: Ledger, second_ledger: Ledger, db: Database) -> None:
    """Steps of two tenants meet in one transaction; a step does not find another tenant's account."""
    await ledger.open("a", 10, type=AccountType.CUSTOMER)
    await ledger.open("b")
    await second_ledger.open("a", 10, type=AccountType.CUSTOMER)
    await second_ledger.open("c")
    outcomes: list[Any] = list(
        await posting.apply_steps(
            db,
            [
                Item(ledger.post(("a", -1), ("b", 1))),
                Item(second_ledger.post(("a", -2), ("c", 2))),
                Item(second_ledger.post(("a", -1), ("b", 1))),
            ],
        )
    )
    assert [outcome.WhichOneof("result") for outcome in outcomes] == ["journal", "journal", "refusal"]
    assert reason(outcomes[2].refusal) == "ACCOUNT_NOT_FOUND"
    assert ((await ledger.balance("a")).posted, (await second_ledger.balance("a")).posted) == (9, 8)


@pytest.mark.parametrize("write", [False, True])
async def test_a_preview_says_what_would_happen_and_does_nothing(ledger: Ledger, write: bool) -> None:
    """validate_only computes on the book; nothing is stored, not even the refusal."""
    await ledger.open("a", 10, type=AccountType.CUSTOMER)
    await ledger.open("b")
    steps = [ledger.post(("a", -8), ("b", 8)), ledger.post(("a", -8), ("b", 8))]
    preview = await posting.preview_steps(ledger.db, steps)
    assert preview[0].journal.balances_after[0].minor_units == 2
    state = preview[0].journal.debit_state
    assert (state.version, state.available_minor_units) == (1, 10)
    assert reason(preview[1].refusal) == "INSUFFICIENT_FUNDS"
    assert (await ledger.balance("a")).posted == 10
    if write:
        outcomes = await ledger.apply(*reversed(steps))
        assert not outcomes[0].journal.HasField("debit_state")
        assert [outcome.HasField("journal") for outcome in outcomes] == [True, False]


async def test_of_many_that_expect_the_same_of_an_account_at_once_one_is_posted(
    ledger: Ledger, settings: Settings
) -> None:
    """Two replicas, each step with what a preview saw: the lock decides, and a refusal is the answer ever after."""
    await ledger.open("a", 100, type=AccountType.CUSTOMER)
    await ledger.open("b")
    (preview,) = await posting.preview_steps(ledger.db, [ledger.post(("a", -1), ("b", 1))])
    seen = preview.journal.debit_state
    steps = []
    for _ in range(20):
        step = ledger.post(("a", -1), ("b", 1))
        steps.append(replace(step, seen=Seen(seen.version, seen.available_minor_units)))
    async with AsyncExitStack() as stack:
        both = await replicas(stack, settings, 2)
        outcomes = await asyncio.gather(*(both[number % 2].submit(Item(step)) for number, step in enumerate(steps)))
    assert sum(outcome.HasField("journal") for outcome in outcomes) == 1
    assert {reason(outcome.refusal) for outcome in outcomes if outcome.HasField("refusal")} == {"STATE_CHANGED"}
    assert await ledger.apply(*steps) == list(outcomes)
    assert (await ledger.balance("a")).posted == 99
    await ledger.check_books()
