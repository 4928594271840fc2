"""The tables in memory are asked as the stores are."""

from __future__ import annotations

import inspect
from types import ModuleType

import pytest

from accounts import ledger_store
from compliance import case_store, kyc_store, policy_store, screening_store
from tests.simulation import ledger_tables, screening_tables, transfer_tables
from transactions import exchange_store, fee_store, store

STORES = {
    transfer_tables: (store, fee_store, exchange_store),
    ledger_tables: (ledger_store,),
    screening_tables: (case_store, kyc_store, policy_store, screening_store),
}
_ELSEWHERE = {"append", "claim"}
"""Of meshkit/outbox.py and meshkit/idempotency.py."""


@pytest.mark.parametrize("tables", STORES, ids=lambda module: module.__name__)
def test_every_function_has_the_parameters_of_the_store(tables: ModuleType) -> None:
    """A store that is asked for more, or otherwise, is noticed here."""
    mine = {
        name: function
        for name, function in inspect.getmembers(tables, inspect.iscoroutinefunction)
        if function.__module__ == tables.__name__ and name not in _ELSEWHERE
    }
    assert mine
    for name, function in mine.items():
        (theirs,) = [getattr(module, name) for module in STORES[tables] if hasattr(module, name)]
        expected = [(one.name, one.kind, one.default) for one in inspect.signature(theirs).parameters.values()]
        found = [(one.name, one.kind, one.default) for one in inspect.signature(function).parameters.values()]
        assert found == expected, name
