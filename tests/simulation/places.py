"""Puts tables, gates, clock and log in the places where the product's modules look for their stores and each other."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from accounts import posting
from compliance import operations as compliance_operations
from compliance import screening_operations
from meshkit import batching, clock, identity
from tests.simulation import ledger_tables, screening_tables, transfer_tables
from tests.simulation.bank import present
from transactions import (
    answers,
    authorizations,
    clients,
    consumers,
    fee_operations,
    operations,
    orders,
    originals,
    passes,
    quotes,
    recovery,
)


async def _call(method: Any, request: Any, **_options: Any) -> Any:
    return await present[0].call(method, request)


async def _record_nothing(*_arguments: Any, **_options: Any) -> None:
    """Audit rows are not what is looked at here."""


class _Errors:
    """The log of a module: what it calls an error is a finding."""

    def error(self, message: str, **facts: Any) -> None:
        present[0].world.errors.append(f"{message}: {facts}")

    def __getattr__(self, _level: str) -> Callable[..., None]:
        return lambda *_arguments, **_facts: None


@contextmanager
def simulated() -> Iterator[None]:
    """Puts tables, gates, clock and log in their places while the block runs."""
    ticking = types.SimpleNamespace(monotonic=lambda: present[0].world.loop.time())
    outbox, audit = types.SimpleNamespace(append=screening_tables.append), types.SimpleNamespace(record=_record_nothing)
    replaced: list[tuple[Any, dict[str, Any]]] = [
        (clock, {"now": lambda: present[0].world.now()}),
        (clients, {"channels": types.SimpleNamespace(call=_call), "time": ticking}),
        (operations, {"store": transfer_tables, "time": ticking, "audit": audit}),
        (authorizations, {"store": transfer_tables, "time": ticking, "audit": audit}),
        (orders, {"store": transfer_tables, "time": ticking, "_log": _Errors()}),
        (recovery, {"store": transfer_tables, "time": ticking, "_log": _Errors()}),
        (passes, {"store": transfer_tables, "_log": _Errors()}),
        (originals, {"store": transfer_tables}),
        (quotes, {"store": transfer_tables, "exchange_store": transfer_tables}),
        (fee_operations, {"fee_store": transfer_tables}),
        (consumers, {"store": transfer_tables}),
        (answers, {"_log": _Errors()}),
        (batching, {"time": ticking, "_log": _Errors()}),
        (identity, {"time": ticking}),
        (posting, {"ledger_store": ledger_tables}),
        (screening_operations, dict.fromkeys(_SCREENING_STORES, screening_tables) | {"outbox": outbox}),
        (compliance_operations, {"case_store": screening_tables, "outbox": outbox, "audit": audit}),
    ]
    with contextlib.ExitStack() as stack:
        for module, names in replaced:
            stack.enter_context(mock.patch.multiple(module, **names))
        for module in (operations, authorizations):
            stack.enter_context(mock.patch.object(module.idempotency, "claim", transfer_tables.claim))
        yield


_SCREENING_STORES = ("case_store", "kyc_store", "policy_store", "screening_store")
