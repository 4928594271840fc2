"""Makes transfers for tests; nothing here is read by the product."""

from __future__ import annotations

import hashlib
import itertools
from datetime import UTC, datetime
from typing import Any

from meshkit.identity import Principal
from transactions.model import CREATE_METHOD, Transfer, request_key

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TELLER = Principal("demo", "teller", None, frozenset({"transfers:write", "transfers:read"}))
ANNA = Principal("demo", "anna", "customers/anna", frozenset({"transfers:write", "transfers:read"}))

_numbers = itertools.count(1)


def transfer(principal: Principal = TELLER, request_id: str | None = None, **changes: Any) -> Transfer:
    """A transfer of 10.00 EUR from accounts/a to accounts/b; each call is another request."""
    request_id = request_id if request_id is not None else f"request-{next(_numbers)}"
    key = request_key(principal, CREATE_METHOD, request_id)
    values: dict[str, Any] = {
        "id": str(key),
        "principal": principal,
        "request_key": key,
        "request_id": request_id,
        "fingerprint": hashlib.sha256(b"payload").digest(),
        "debit_account": "accounts/a",
        "credit_account": "accounts/b",
        "currency": "EUR",
        "amount": 1000,
        "creditor_name": "Brauerei Nord",
        "end_to_end_id": "E2E-1",
        "remittance": "Invoice 7",
        "create_time": NOW,
        "update_time": NOW,
        "customers": (principal.customer,) if principal.customer else (),
        **changes,
    }
    return Transfer(**values)
