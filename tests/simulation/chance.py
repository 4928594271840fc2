"""What chance chooses: the rules of a schedule, their order, and what each is given."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any, NamedTuple

type Draw[T] = Callable[[Random], T]


class Step(NamedTuple):
    """A rule that is carried out, and with what."""

    rule: str
    given: dict[str, Any]

    def __str__(self) -> str:
        return f"money.{self.rule}({', '.join(f'{name}={value!r}' for name, value in self.given.items())})"


def rule[**P](**draws: Draw[Any]) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Marks a method as something that can happen, and says how its arguments are chosen."""

    def mark(method: Callable[P, None]) -> Callable[P, None]:
        method.draws = draws  # type: ignore[attr-defined]
        return method

    return mark


def rules_of(machine: type) -> dict[str, dict[str, Draw[Any]]]:
    """Each rule of a machine, and how its arguments are chosen."""
    return {name: method.draws for name, method in vars(machine).items() if hasattr(method, "draws")}


def schedule(rules: dict[str, dict[str, Draw[Any]]], chance: Random, steps: int) -> list[Step]:
    """Some of the rules, in any order. Most schedules lack some: what is always there hides what comes without it."""
    lacking = chance.random()
    there = [name for name in rules if chance.random() >= lacking] or list(rules)
    chosen = chance.choices(there, k=steps)
    return [Step(name, {key: draw(chance) for key, draw in rules[name].items()}) for name in chosen]


def one_of[T](options: Iterable[T]) -> Draw[T]:
    """Any of them, each as likely; one that stands twice is twice as likely."""
    among = list(options)
    return lambda chance: among[int(chance.random() * len(among))]


def up_to(most: int) -> Draw[int]:
    """A number from 0 on."""
    return one_of(range(most + 1))


def several[T](draw: Draw[T], least: int, most: int) -> Draw[list[T]]:
    """Some of a kind."""
    return lambda chance: [draw(chance) for _ in range(chance.randint(least, most))]


def both[A, B](first: Draw[A], second: Draw[B]) -> Draw[tuple[A, B]]:
    """One of each."""
    return lambda chance: (first(chance), second(chance))


def two_of(names: Sequence[str]) -> Draw[list[str]]:
    """Two different ones, in either order."""
    return one_of([list(pair) for pair in itertools.permutations(names, 2)])
