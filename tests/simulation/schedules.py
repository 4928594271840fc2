"""Runs schedules of a seed, thousands a minute, and finds the shortest way to what one of them found."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from random import Random

import structlog

from tests.simulation import chance
from tests.simulation.chance import Step
from tests.simulation.machine import POSTURES, Money
from tests.simulation.places import simulated

STEPS = 60
"""In a schedule; what is under way then comes to its end."""
MANY = 500
"""So many are worth a process for each core."""
_RULES = chance.rules_of(Money)
_UNTIL_COLLECTED = 100
"""After so many schedules what they left is collected: while they run, looking for it costs a third of the time."""


def play(schedules: int, chosen: int, *, shrink: bool = True) -> None:
    """Runs so many schedules. Raises what the first that finds anything finds; with `shrink`, in the shortest schedule
    that finds it. The steps are a note of the error."""
    _tell(chosen, first_that_finds(chosen, range(schedules)), shrink=shrink)


def play_many(schedules: int, chosen: int) -> None:
    """As `play`, in a process for each core. What a test replaced in the product is not replaced there."""
    cores = os.cpu_count() or 1
    if schedules < MANY or cores == 1:
        play(schedules, chosen)
        return
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        searches = [pool.submit(_search, chosen, range(first, schedules, cores)) for first in range(cores)]
        numbers = [number for search in searches if (number := search.result()) is not None]
    # In this process once more, where it can be looked at.
    _tell(chosen, min(numbers, default=None), shrink=True)


def _tell(chosen: int, number: int | None, *, shrink: bool) -> None:
    if number is None:
        return
    posture, steps = made(chosen, number)
    if shrink:
        steps = shortest(steps, lambda fewer: found(posture, fewer) is not None)
    error = found(posture, steps)
    if error is None:
        raise RuntimeError(f"schedule {number} of {chosen} found something, and does not find it again")
    error.add_note("\n".join([f"money = Money({posture!r})", *map(str, steps), "money.end()"]))
    raise error


def _search(chosen: int, numbers: range) -> int | None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with simulated():
        return first_that_finds(chosen, numbers)


def first_that_finds(chosen: int, numbers: Iterable[int]) -> int | None:
    """The first of some schedules that finds something."""
    with _seldom_collected() as collect:
        for count, number in enumerate(numbers):
            if found(*made(chosen, number)) is not None:
                return number
            if count % _UNTIL_COLLECTED == 0:
                collect()
    return None


def made(chosen: int, number: int) -> tuple[str, list[Step]]:
    """The posture and the steps of a seed's schedule: the same wherever it is asked for."""
    luck = Random(f"{chosen}/{number}")
    return luck.choice(POSTURES), chance.schedule(_RULES, luck, STEPS)


def found(posture: str, steps: Sequence[Step]) -> Exception | None:
    """What is wrong in a schedule."""
    money = Money(posture)
    try:
        for step in steps:
            getattr(money, step.rule)(**step.given)
            money.all_agree()
        money.end()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what was looked for
        return error
    finally:
        money.close()
    return None


def shortest(steps: Sequence[Step], shows: Callable[[Sequence[Step]], bool]) -> list[Step]:
    """Steps of which none can be left out: large parts are tried first, then smaller ones."""
    left, size = list(steps), len(steps) // 2
    while size:
        before, at = len(left), 0
        while at < len(left):
            fewer = left[:at] + left[at + size :]
            if shows(fewer):
                left = fewer
            else:
                at += size
        if size > 1 or len(left) == before:
            size //= 2  # single steps are tried until all of them are needed
    return left


@contextmanager
def _seldom_collected() -> Iterator[Callable[[], object]]:
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()  # what is there already is not looked through again
    gc.disable()
    try:
        yield gc.collect
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()
