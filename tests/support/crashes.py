"""Points at which a process of the mesh is made to die, each between two steps that the money path takes.

The product knows nothing of them: a process that finds FLORIN_TEST_CRASHES in its environment, and this repository's
`crashing` folder on its path, wraps the functions below as it imports their modules. One that was not started so has
neither the points nor their cost. A point is armed by a file, and whoever reaches it first takes the file away and
ends at once, as with kill -9: nothing is flushed, nothing is closed.
"""

from __future__ import annotations

import functools
import importlib.abc
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

VARIABLE = "FLORIN_TEST_CRASHES"
"""Names the folder with a file for each point that is armed."""
WHEN = ("before", "after")


@dataclass(frozen=True, slots=True)
class Step:
    """A function that does one step; a process may die before it and after it."""

    module: str
    function: str
    """By its name in the module, with its class if it has one."""

    def wrap(self, module: ModuleType, service: str, name: str) -> None:
        """Puts the points around it."""
        owner: Any = module
        *path, last = self.function.split(".")
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, last, dying(getattr(owner, last), f"{service}.{name}"))


_EVENTS = {
    "relay": Step("meshkit.bus", "Bus.publish_rows"),
    "inbox": Step("meshkit.inbox", "Consumer._apply"),
    "acknowledgement": Step("meshkit.inbox", "_Delivery.ack"),
}
"""What services have of meshkit: events go out, and come in."""


STEPS: Mapping[str, Mapping[str, Step]] = {
    "transactions": {
        # Commits, and what is inside of them: after `original` and `follower` the transaction is rolled back.
        "intent": Step("transactions.orders", "Orders._record_intents"),
        "follower": Step("transactions.orders", "Orders.record_follower"),
        "outcome": Step("transactions.passes", "Passes._record"),
        "original": Step("transactions.originals", "record"),
        "claim": Step("meshkit.idempotency", "claim"),
        "void": Step("transactions.store", "void"),
        "verdict": Step("transactions.consumers", "handle"),
        # Calls.
        "resolve": Step("transactions.clients", "LedgerClient.resolve"),
        "screen": Step("transactions.clients", "ScreeningClient.screen"),
        "hold": Step("transactions.clients", "LedgerClient.hold"),
        "post": Step("transactions.clients", "LedgerClient.post"),
        "release": Step("transactions.clients", "LedgerClient.release"),
        "cancel": Step("transactions.clients", "LedgerClient.cancel"),
        **_EVENTS,
    },
    "accounts": {
        "batch": Step("accounts.posting", "apply_steps"),
        "book": Step("accounts.ledger_store", "write_book"),
    },
    "compliance": {
        "screening": Step("compliance.screening_operations", "screen_transfers"),
        "decisions": Step("compliance.screening_store", "store"),
        "resolution": Step("compliance.operations", "resolve_case"),
        "ends": Step("compliance.screening_operations", "end_transfers"),
        **_EVENTS,
    },
}


def points(service: str) -> list[str]:
    """The names of a service's points."""
    return [f"{service}.{name}.{when}" for name in STEPS[service] for when in WHEN]


def die(point: str) -> None:
    """Ends the process if the point is armed, and nobody else was there first."""
    try:
        Path(os.environ[VARIABLE], point).unlink()
    except FileNotFoundError:
        return
    os._exit(137)


def dying(function: Any, name: str) -> Any:
    """The coroutine function with a point on either side."""
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"{name} is no coroutine function")

    @functools.wraps(function)
    async def wrapped(*arguments: Any, **options: Any) -> Any:
        die(f"{name}.before")
        result = await function(*arguments, **options)
        die(f"{name}.after")
        return result

    return wrapped


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules as everybody does, and changes some of them once they were executed."""

    def __init__(self, changes: Mapping[str, Sequence[Callable[[ModuleType], None]]]) -> None:
        self._changes = changes

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As the other finders give it, with a loader that makes the changes."""
        changes = self._changes.get(name)
        if changes is None:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            for change in changes:
                change(module)

        spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


def _start_again_at_once(processes: ModuleType) -> None:
    """The supervisor waits longer from death to death of a process; here they die often, and on purpose."""
    processes._STABLE_SECONDS = 0.0


def install() -> None:
    """Makes this process one that may die at the points of its service, if it is one."""
    program = sys.orig_argv[-1]
    if VARIABLE not in os.environ:
        return
    changes: dict[str, list[Callable[[ModuleType], None]]] = {"local.processes": [_start_again_at_once]}
    for name, step in STEPS.get(program, {}).items():
        changes.setdefault(step.module, []).append(functools.partial(step.wrap, service=program, name=name))
    sys.meta_path.insert(0, _Finder(changes))
