"""Group commit: batches form under load, failures stay with their items, nothing is lost at a stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg.errors
import pytest

from meshkit import batching, identity
from meshkit.batching import Batcher
from meshkit.errors import DeadlineTooShort, Overloaded, Unavailable


@asynccontextmanager
async def _running(batcher: Batcher[int, int]) -> AsyncIterator[None]:
    worker = asyncio.create_task(batcher.run())
    try:
        yield
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


async def test_items_that_arrive_during_a_batch_form_the_next_one() -> None:
    """64 callers at once need few batches, and each gets its own answer."""
    sizes: list[int] = []

    async def process(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        await asyncio.sleep(0.005)
        return [item * 2 for item in items]

    batcher = Batcher("t", process)
    async with _running(batcher):
        answers = await asyncio.gather(*(batcher.submit(number) for number in range(64)))
    assert answers == [number * 2 for number in range(64)]
    assert sum(sizes) == 64
    assert len(sizes) <= 3


async def test_one_refusal_fails_only_its_own_caller() -> None:
    """An exception among the outcomes is raised to that item alone."""

    async def process(items: Sequence[int]) -> list[int | BaseException]:
        return [KeyError("no") if item == 3 else item for item in items]

    batcher: Batcher[int, int] = Batcher("t", process)
    async with _running(batcher):
        outcomes = await batcher.submit_all(range(6))
    assert [outcome for outcome in outcomes if not isinstance(outcome, BaseException)] == [0, 1, 2, 4, 5]
    assert isinstance(outcomes[3], KeyError)


async def test_a_data_error_is_traced_to_the_item_at_fault() -> None:
    """A batch that the database refuses for one row's data is split until that row stands alone."""

    async def process(items: Sequence[int]) -> list[int]:
        if 5 in items:
            raise psycopg.errors.NumericValueOutOfRange("bad row")
        return list(items)

    batcher: Batcher[int, int] = Batcher("t", process)
    async with _running(batcher):
        outcomes = await batcher.submit_all(range(9))
    assert [type(outcome) for outcome in outcomes].count(int) == 8
    assert isinstance(outcomes[5], psycopg.errors.NumericValueOutOfRange)


async def test_an_item_past_its_deadline_is_dropped_before_it_is_begun() -> None:
    """Nothing is done for a caller who stopped waiting."""
    seen: list[int] = []

    async def process(items: Sequence[int]) -> list[int]:
        seen.extend(items)
        return list(items)

    batcher: Batcher[int, int] = Batcher("t", process)
    async with _running(batcher):
        with pytest.raises(DeadlineTooShort):
            await batcher.submit(1, deadline=time.monotonic() - 1)
    assert seen == []


async def test_a_full_queue_sheds_load() -> None:
    """More than the queue holds is refused at once."""

    async def process(items: Sequence[int]) -> list[int]:
        return list(items)

    batcher: Batcher[int, int] = Batcher("t", process, queue_max=3)
    with pytest.raises(Overloaded):
        await batcher.submit_all(range(4))


async def test_a_stop_finishes_what_was_begun_and_refuses_the_rest() -> None:
    """A batch in flight is answered; what was not begun can be asked of another replica."""
    begun = asyncio.Event()

    async def process(items: Sequence[int]) -> list[int]:
        begun.set()
        await asyncio.sleep(0.02)
        return list(items)

    batcher: Batcher[int, int] = Batcher("t", process, batch_max=1)
    worker = asyncio.create_task(batcher.run())
    first = asyncio.create_task(batcher.submit(1))
    second = asyncio.create_task(batcher.submit(2))
    await begun.wait()
    worker.cancel()
    assert await first == 1
    with pytest.raises(Unavailable):
        await second
    with pytest.raises(Unavailable):
        await batcher.submit(3)


async def test_a_batcher_that_was_stopped_takes_work_again_when_it_is_started_again() -> None:
    """The lifecycle starts a failed worker again; it must not go on refusing."""

    async def process(items: Sequence[int]) -> list[int]:
        return list(items)

    batcher: Batcher[int, int] = Batcher("t", process)
    for _ in range(2):
        worker = asyncio.create_task(batcher.run())
        await asyncio.sleep(0)
        assert await batcher.submit(1) == 1
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


async def test_an_item_that_our_own_code_stumbles_over_fails_alone_and_the_others_keep_their_order() -> None:
    """Whatever it is that one item breaks, nobody who shares its batch is told so."""
    done: list[int] = []

    async def process(items: Sequence[int]) -> list[int]:
        if 5 in items:
            raise KeyError("a bug")
        done.extend(items)
        return list(items)

    batcher: Batcher[int, int] = Batcher("t", process)
    async with _running(batcher):
        outcomes = await batcher.submit_all(range(1000))
    assert [number for number, outcome in enumerate(outcomes) if isinstance(outcome, BaseException)] == [5]
    assert done == [number for number in range(1000) if number != 5]


@pytest.mark.parametrize(("error", "most"), [(KeyError("a bug"), 70), (Unavailable("the database"), 1)])
async def test_a_failure_that_is_everybodys_is_not_tried_item_by_item(error: Exception, most: int) -> None:
    """A refusal fails the batch at once; a bug that every item meets is given up on after some parts."""
    calls = 0

    async def process(_items: Sequence[int]) -> list[int]:
        nonlocal calls
        calls += 1
        raise error

    batcher: Batcher[int, int] = Batcher("t", process)
    async with _running(batcher):
        outcomes = await batcher.submit_all(range(1000))
    assert all(outcome is error for outcome in outcomes)
    assert calls <= most


async def test_a_batch_has_the_trace_that_its_items_have_in_common_or_none() -> None:
    """What is done for one caller is never told as another's."""
    seen: list[str] = []

    async def process(items: Sequence[int]) -> list[int]:
        seen.append(identity.traceparent())
        return list(items)

    batcher: Batcher[int, int] = Batcher("t", process)

    async def submit(trace: str) -> None:
        identity.adopt_trace([trace])
        await batcher.submit(1)

    async with _running(batcher):
        for traces in (["one", "one"], ["one", "two"], ["one", ""], ["two"]):
            await asyncio.gather(*(asyncio.create_task(submit(trace)) for trace in traces))
    assert seen == ["one", "", "", "two"]


async def test_bulk_and_single_calls_take_turns_and_fill_no_queue_but_their_own() -> None:
    """Five batches of bulk wait and the bulk's queue is full: a single call is in the second batch from now."""
    done: list[int] = []

    async def process(items: Sequence[int]) -> list[int]:
        done.append(len(items))
        await asyncio.sleep(0.001)
        return list(items)

    batcher: Batcher[int, int] = Batcher("t", process, batch_max=200, queue_max=1000)
    bulk = asyncio.create_task(batcher.submit_all(range(1000)))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await batcher.submit_all(range(101))
    async with _running(batcher):
        singles = [asyncio.create_task(batcher.submit(number)) for number in range(3)]
        await asyncio.gather(*singles)
        assert sum(done) <= 203
        assert len(await bulk) == 1000
    assert sorted(done) == [3, 200, 200, 200, 200, 200]


async def test_a_batch_weighs_so_much_at_most_and_one_that_weighs_more_goes_alone() -> None:
    """In their order, none left behind; and one whose caller gave up weighs nothing."""
    batches: list[list[int]] = []

    async def process(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        return list(items)

    batcher = Batcher("t", process, batch_max=3, weigh=lambda item: item, weight_max=10)
    weights = [9, 1, 1, 25, 4, 7, 1, 1, 1, 1]
    futures = batcher.enqueue(weights)
    futures[5].cancel()
    async with _running(batcher):
        await asyncio.gather(*futures, return_exceptions=True)
    assert batches == [[9, 1], [1], [25], [4, 1, 1], [1, 1]]


async def test_under_load_batches_get_larger_before_they_get_more() -> None:
    """What comes while a batch is under way shares the next one, and does not begin beside it."""
    sizes: list[int] = []
    begun, first = asyncio.Event(), asyncio.Event()

    async def process(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        begun.set()
        if len(sizes) == 1:
            await first.wait()
        return list(items)

    batcher: Batcher[int, int] = Batcher("t", process, concurrency=3)
    worker = asyncio.create_task(batcher.run())
    calls = [asyncio.create_task(batcher.submit(0))]
    await begun.wait()
    for number in range(1, 10):
        calls.append(asyncio.create_task(batcher.submit(number)))
        await asyncio.sleep(0)
    first.set()
    assert await asyncio.gather(*calls) == list(range(10))
    assert sizes == [1, 9]
    worker.cancel()


async def test_a_batch_begins_beside_others_once_as_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a lower `beside_min`: beside a batch of 1 when 4 wait and not before, beside both when 5 do."""
    monkeypatch.setattr(batching, "_HELD_SECONDS_MAX", 60)
    monkeypatch.setattr(batching, "_PACE_SECONDS", 0)
    sizes: list[int] = []
    begun, gate = asyncio.Event(), asyncio.Event()

    async def process(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        begun.set()
        await gate.wait()
        return list(items)

    batcher: Batcher[int, int] = Batcher("t", process, concurrency=3, beside_min=4)
    answers: list[asyncio.Future[int]] = []
    async with _running(batcher), asyncio.timeout(10):
        for parts in ((1,), (3, 1), (4, 1)):
            begun.clear()
            for part in parts:
                answers += batcher.enqueue(range(part))
                for _ in range(50):  # turns of the loop, enough to begin what should wait
                    await asyncio.sleep(0)
            await begun.wait()
        gate.set()
        await asyncio.gather(*answers)
    assert sizes == [1, 4, 5]


async def test_a_part_of_many_waits_among_the_many_and_one_given_up_is_not_begun() -> None:
    """`bulk` decides the lane whatever the number; a future that is cancelled in time is never processed."""
    done: list[list[int]] = []

    async def process(items: Sequence[int]) -> list[int]:
        done.append(list(items))
        return list(items)

    batcher: Batcher[int, int] = Batcher("t", process, queue_max=3)
    first, given_up, last = batcher.enqueue([1, 2, 3], bulk=True)
    with pytest.raises(Overloaded):
        batcher.enqueue([4], bulk=True)
    given_up.cancel()
    async with _running(batcher):
        assert await batcher.submit(5) == 5
        assert (await first, await last) == (1, 3)
    assert sorted(done) == [[1, 3], [5]]


async def test_nothing_to_do_wakes_nobody() -> None:
    """A worker that was woken for no items would look for them again and again."""
    turns = 0

    async def process(items: Sequence[int]) -> list[int]:
        return list(items)

    batcher: Batcher[int, int] = Batcher("t", process)
    ready_lane = batcher._ready_lane

    def counted(running: Any) -> int | None:
        nonlocal turns
        turns += 1
        return ready_lane(running)

    batcher._ready_lane = counted  # type: ignore[method-assign]
    async with _running(batcher):
        assert not batcher.enqueue([])
        assert not await batcher.submit_all([])
        for _ in range(100):
            await asyncio.sleep(0)
        assert turns == 0
        assert await batcher.submit(1) == 1


async def test_a_batch_that_takes_too_long_does_not_hold_up_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something hangs: after a while the next batch begins beside it."""
    monkeypatch.setattr(batching, "_HELD_SECONDS_MAX", 0.02)
    begun, hanging = asyncio.Event(), asyncio.Event()

    async def process(items: Sequence[int]) -> list[int]:
        if 0 in items:
            begun.set()
            await hanging.wait()
        return list(items)

    batcher: Batcher[int, int] = Batcher("t", process, concurrency=2)
    worker = asyncio.create_task(batcher.run())
    slow = asyncio.create_task(batcher.submit(0))
    await begun.wait()
    assert await asyncio.wait_for(batcher.submit(1), 5) == 1
    hanging.set()
    assert await slow == 0
    worker.cancel()
