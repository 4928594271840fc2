"""The worker of reconciliation: what it does when an account cannot be gone over."""

from __future__ import annotations

from typing import Any

import pytest

from accounts.reconciliation_worker import Reconciler
from meshkit.errors import Contention


class Due:
    """A database that tells of three accounts that are due."""

    async def run(self, *_: Any, **__: Any) -> list[tuple[str, str]]:
        """What is due."""
        return [("t", "first"), ("t", "second"), ("u", "third")]


@pytest.mark.parametrize("fault", [Contention(), RuntimeError("a gap"), None])
async def test_an_account_that_cannot_be_reconciled_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, fault: Exception | None
) -> None:
    """Whoever comes after it has a turn, another tenant's too; the pass was not whole, so the next one comes soon."""
    turns = []

    async def reconcile(_: Reconciler, tenant: str, account: str) -> None:
        turns.append((tenant, account))
        if fault is not None and account == "first":
            raise fault

    monkeypatch.setattr(Reconciler, "reconcile", reconcile)
    worker = Reconciler(Due(), days=5, every_seconds=60)  # type: ignore[arg-type]
    assert await worker.work_once() is (fault is None)
    assert turns == [("t", "first"), ("t", "second"), ("u", "third")]
