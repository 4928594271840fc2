"""The reasons that the edge gives to refusals of Envoy's own, as tables for replies.lua; it refuses nothing itself."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from edge_contracts import Contracts

REPLIES = Path(__file__).with_name("replies.lua")

OWN_REFUSALS: dict[str, tuple[int, str, int]] = {
    # Reason: gRPC code, text, seconds after which to try again (0: no use).
    "TOKEN_INVALID": (16, "A valid token is needed.", 0),
    "AUDIENCE_WRONG": (7, "The token is meant for another audience.", 0),
    "SCOPE_MISSING": (7, "The token carries none of the scopes that this method asks for.", 0),
    "RATE_LIMITED": (8, "The rate of calls is too high.", 1),
    "REQUEST_INVALID": (3, "The request cannot be read, or is too large.", 0),
    "METHOD_UNKNOWN": (12, "There is no such method.", 0),
    "UNAVAILABLE": (14, "A part that is needed for the answer is down.", 1),
    "DEADLINE_EXCEEDED": (4, "The deadline passed while the answer was made.", 0),
    "INTERNAL": (13, "The edge failed to answer.", 0),
}
REASON_OF_HTTP = {
    401: "TOKEN_INVALID",
    404: "METHOD_UNKNOWN",
    405: "METHOD_UNKNOWN",
    408: "DEADLINE_EXCEEDED",
    429: "RATE_LIMITED",
    500: "INTERNAL",
    501: "METHOD_UNKNOWN",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
REASON_OF_GRPC = {
    4: "DEADLINE_EXCEEDED",
    8: "RATE_LIMITED",
    12: "METHOD_UNKNOWN",
    14: "UNAVAILABLE",
    16: "TOKEN_INVALID",
}


def replies_source(contracts: Contracts) -> str:
    """The filter that gives refusals their reasons: its tables, made from errors.proto, before its text."""
    refusals = {
        reason: {
            "code": code,
            "message": text,
            "details": _details(reason, code, text, seconds),
            **({"retry_seconds": seconds} if seconds else {}),
        }
        for reason, (code, text, seconds) in OWN_REFUSALS.items()
    }
    tables = {
        "REFUSALS": refusals,
        "TITLES": contracts.titles,
        "REASON_OF_HTTP": REASON_OF_HTTP,
        "REASON_OF_GRPC": {str(code): reason for code, reason in REASON_OF_GRPC.items()},
    }
    head = "".join(f"local {name} = {_lua(table)}\n" for name, table in tables.items())
    return head + REPLIES.read_text()


def _details(reason: str, code: int, text: str, seconds: int) -> str:
    """A google.rpc.Status for the header grpc-status-details-bin: base64 without padding."""
    from google.rpc import error_details_pb2, status_pb2

    status = status_pb2.Status(code=code, message=text)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="florin"))
    if seconds:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromSeconds(seconds)
        status.details.add().Pack(retry)
    return base64.b64encode(status.SerializeToString()).decode().rstrip("=")


def _lua(value: Any) -> str:
    if isinstance(value, dict):
        pairs = (f"[{_lua(key)}] = {_lua(inner)}" for key, inner in value.items())
        return "{ " + ", ".join(pairs) + " }"
    return json.dumps(value, ensure_ascii=False)  # a JSON string or number is a Lua one
