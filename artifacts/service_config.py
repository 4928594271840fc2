"""gRPC's service configuration: each method's deadline, and which calls a client library may send again by itself.

A library sends the very same message again. That is harmless where a method reads, and where its request must carry a
request_id. Where a request may go without one, each copy would be a request of its own: there the caller, who knows
whether it gave one, decides (Florin's clients always give one, and send again).
"""

from __future__ import annotations

from typing import Any

from artifacts.contract import Contract, Method
from artifacts.rules import rules_of
from florin.common.v1 import policy_pb2

_RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
_THROTTLE = {"maxTokens": 10, "tokenRatio": 0.1}
"""A client whose calls mostly fail stops to send them again."""


def service_config(contract: Contract) -> dict[str, Any]:
    """The configuration, as every gRPC library reads it from JSON."""
    return {"methodConfig": [_method(contract, method) for method in contract.methods], "retryThrottling": _THROTTLE}


def may_be_sent_again(contract: Contract, method: Method) -> bool:
    """Whether a copy of any request that is not refused has no effect of its own."""
    if method.is_streaming or not method.policy.idempotent:
        return False
    return method.policy.rate == policy_pb2.RATE_READ or _needs_a_key(contract, method)


def _needs_a_key(contract: Contract, method: Method) -> bool:
    """Whether a request, and each item of a batch, is refused without a key: by a rule or as its comment says."""
    if "Items without a request_id are refused" in contract.comment(f"{method.service}.{method.name}"):
        return True
    batch = method.request.fields_by_name.get("requests")
    keyed = (batch.message_type if batch is not None else None) or method.request
    key = keyed.fields_by_name.get("request_id")
    if key is None:
        return False
    return rules_of(key).string.min_len > 0 or "; required." in contract.comment(key.full_name)


def _method(contract: Contract, method: Method) -> dict[str, Any]:
    made: dict[str, Any] = {"name": [{"service": method.service, "method": method.name}]}
    if method.policy.deadline_ms:
        made["timeout"] = f"{method.policy.deadline_ms / 1000:g}s"
    if may_be_sent_again(contract, method):
        made["retryPolicy"] = _RETRY
    return made
