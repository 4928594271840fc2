"""What notifications publishes: model to event messages for the outbox; it must not decide when."""

from __future__ import annotations

from florin.notifications.v1 import events_pb2
from meshkit import clock
from meshkit.outbox import Event
from notifications.delivery_store import Settled
from notifications.model import DueDelivery


def delivery_failed(settled: Settled, due: DueDelivery) -> Event:
    """An event could not be delivered and is given up. Its version counts how often: a replay can fail again."""
    message = events_pb2.DeliveryFailed(
        delivery=f"deliveries/{settled.delivery}",
        endpoint=f"webhookEndpoints/{due.endpoint}",
        event_id=str(due.event.id),
        update_time=clock.timestamp(settled.time),
    )
    return Event(
        tenant=settled.tenant,
        aggregate=message.delivery,
        version=settled.failure_count,
        message=message,
        time=settled.time,
    )
