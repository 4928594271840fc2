"""Signatures that any Standard Webhooks library verifies, resume tokens that only their tenant can use."""

from __future__ import annotations

import json
import os
import uuid
from datetime import UTC, datetime

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from florin.accounts.v1 import events_pb2
from meshkit.cipher import Cipher
from notifications import signing
from notifications.errors import ResumeTokenInvalid
from notifications.model import StoredEvent
from notifications.resume import ResumeTokens

EVENT = StoredEvent(
    position=7,
    id=uuid.UUID("7d444840-9dc0-51d1-b245-5ffdce74fad2"),
    type="florin.accounts.customer_created.v1",
    subject="customers/ada",
    sequence=1,
    time=datetime(2026, 1, 31, 8, tzinfo=UTC),
    data=events_pb2.CustomerCreated(customer="customers/ada").SerializeToString(),
)


def test_a_body_is_a_cloud_event_with_the_same_bytes_each_time() -> None:
    """What is signed again after a lost answer is the same."""
    body = signing.body("demo", EVENT)
    assert body == signing.body("demo", EVENT)
    event = json.loads(body)
    assert event["data"] == {"customer": "customers/ada"}
    assert (event["specversion"], event["id"], event["time"]) == ("1.0", str(EVENT.id), "2026-01-31T08:00:00Z")
    assert (event["tenant"], event["sequence"]) == ("demo", "1")


def test_each_secret_of_an_overlap_verifies_and_no_other() -> None:
    """By the specification's own library; a changed body does not."""
    body, secrets = signing.body("demo", EVENT), [signing.new_secret(), signing.new_secret()]
    headers = signing.headers(str(EVENT.id), datetime.now(UTC), body, secrets)
    for secret in secrets:
        assert Webhook(secret).verify(body, headers)["id"] == str(EVENT.id)
    with pytest.raises(WebhookVerificationError):
        Webhook(signing.new_secret()).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secrets[0]).verify(body + b" ", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secrets[0]).verify(body, {**headers, "webhook-id": str(uuid.uuid4())})


def test_a_resume_token_is_read_by_its_own_tenant_alone() -> None:
    """Anything else, forged, cut or of another tenant, is not one of this stream."""
    tokens = ResumeTokens(Cipher(os.urandom(32)))
    token = tokens.make("demo", 12)
    assert tokens.read("demo", token) == 12
    forged = token[:-2] + ("AA" if token[-2:] != "AA" else "BB")
    for tenant, wrong in (("other", token), ("demo", forged), ("demo", token[:-4]), ("demo", "!"), ("demo", "12")):
        with pytest.raises(ResumeTokenInvalid):
            tokens.read(tenant, wrong)
