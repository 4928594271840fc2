"""Secrets and signatures after the Standard Webhooks specification 1.0; it must not keep or log a secret."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from datetime import datetime

from google.protobuf.json_format import MessageToDict

from notifications.catalogue import public_types
from notifications.model import StoredEvent

_PREFIX = "whsec_"
_SECRET_BYTES = 32  # the specification asks for 24 to 64


def new_secret() -> str:
    """A new signing secret as it is shown to its owner, once."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def sealing_purpose(tenant: str, endpoint: str) -> str:
    """What a stored secret is bound to: moved to another endpoint's row it does not open."""
    return f"webhook-secret/{tenant}/{endpoint}"


def signature(secret: str, event_id: str, timestamp: int, body: bytes) -> str:
    """One signature: HMAC-SHA256 over "id.timestamp.body", with its version in front."""
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    digest = hmac.digest(key, f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def headers(event_id: str, sent_at: datetime, body: bytes, keys: Sequence[str]) -> dict[str, str]:
    """The headers of an attempt, signed with each of the secrets: more than one while a rotation overlaps."""
    timestamp = int(sent_at.timestamp())
    return {
        "content-type": "application/cloudevents+json; charset=utf-8",
        "user-agent": "florin-webhooks/1",
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signature(key, event_id, timestamp, body) for key in keys),
    }


def body(tenant: str, event: StoredEvent) -> bytes:
    """The event as CloudEvents 1.0 structured JSON; the same event gives the same bytes.

    `data` is protobuf JSON with the contract's default names, like the answers of the REST API.
    """
    kind = public_types()[event.type]
    cloud_event = {
        "specversion": "1.0",
        "id": str(event.id),
        "source": kind.source,
        "type": event.type,
        "subject": event.subject,
        "time": event.time.isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        # Extension attributes: whose event it is, and the subject's version after it.
        "tenant": tenant,
        "sequence": str(event.sequence),
        "data": MessageToDict(kind.message.FromString(event.data)),
    }
    return json.dumps(cloud_event, separators=(",", ":"), ensure_ascii=False).encode()
