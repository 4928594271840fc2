"""Events that a consumer could not handle: looked at, sent to that consumer once more, or dropped.

It needs the broker's operator, since no service may publish another's events. It must not decide what is wrong.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from nats.js import JetStreamContext
from nats.js import errors as js_errors

from meshkit.bus import DEAD_LETTERS
from meshkit.envelopes import AGAIN_FOR, MESSAGE_ID

ORIGINAL_SUBJECT = "florin-original-subject"
FAILURE = "florin-failure"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that was given up."""

    number: int
    """Its place in the stream of dead letters; names it."""
    consumer: str
    stream: str
    subject: str
    event_id: str
    tenant: str
    aggregate: str
    failure: str
    time: str
    headers: dict[str, str]
    data: bytes


async def waiting(jetstream: JetStreamContext) -> AsyncIterator[DeadLetter]:
    """Every dead letter, the oldest first."""
    number = 1
    while True:
        try:
            message = await jetstream.get_msg(DEAD_LETTERS, number, f"florin.{DEAD_LETTERS}.>", next=True)
        except js_errors.NotFoundError:
            return
        headers = dict(message.headers or {})
        _, _, consumer, stream = (message.subject or "").split(".", 3)
        found = int(message.seq or number)
        yield DeadLetter(
            number=found,
            consumer=consumer,
            stream=stream,
            subject=headers.get(ORIGINAL_SUBJECT, ""),
            event_id=headers.get("ce-id", ""),
            tenant=headers.get("ce-tenant", ""),
            aggregate=headers.get("ce-subject", ""),
            failure=headers.get(FAILURE, ""),
            time=headers.get("ce-time", ""),
            headers=headers,
            data=message.data or b"",
        )
        number = found + 1


async def redrive(jetstream: JetStreamContext, letter: DeadLetter) -> None:
    """Sends an event to the consumer that gave it up, and to no other that has seen it; then takes it from the stream.

    A crash between the two sends it twice, which the broker notices for two minutes and the handlers have to bear.
    """
    headers = {key: value for key, value in letter.headers.items() if key not in (ORIGINAL_SUBJECT, FAILURE)}
    headers[AGAIN_FOR] = letter.consumer
    headers[MESSAGE_ID] = f"redrive-{letter.number}-{letter.event_id}"
    await jetstream.publish(letter.subject, letter.data, headers=headers)
    await drop(jetstream, letter)


async def drop(jetstream: JetStreamContext, letter: DeadLetter) -> None:
    """Takes a dead letter from the stream for good."""
    await jetstream.delete_msg(DEAD_LETTERS, letter.number)
