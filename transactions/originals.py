"""What a completed transfer changes of the one it belongs to: a reversal's original, a capture's authorization.

It must be called in the transaction that records the completion, so that both are told or neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit.cipher import Cipher
from transactions import saga, store
from transactions.model import State, Transfer
from transactions.saga import Answer


async def record(conn: AsyncConnection, cipher: Cipher, written: Sequence[Transfer]) -> list[Transfer]:
    """Changes the originals of those that were just recorded as completed; gives these as they are then."""
    completed = [t for t in written if t.state is State.COMPLETED and (t.reversal_of or t.capture_of)]
    if not completed:
        return []
    places = {(t.tenant, t.reversal_of or t.capture_of) for t in completed}
    originals = {t.place: t for t in await store.present(conn, cipher, sorted(places), lock=True)}
    for follower in completed:
        original = originals.get((follower.tenant, follower.reversal_of or follower.capture_of))
        changed = after(original, follower) if original is not None else None
        if changed is not None:
            await store.record_outcomes(conn, [changed])
            originals[changed.place] = changed
    return list(originals.values())


def after(original: Transfer, follower: Transfer) -> Transfer | None:
    """The original after its reversal, or the authorization after a capture, was completed; None where that was noted.

    Told again after a crash, the change is the same: its time is the ledger's.
    """
    if follower.reversal_of:
        if original.state is not State.COMPLETED:
            return None
        return replace(
            original,
            state=saga.after(original, Answer.REVERSED),
            version=original.version + 1,
            reversed_by=follower.id,
            # What was changed goes back whole, and what the follower moves is in the other currency.
            reversed=follower.amount if original.exchange is None else original.amount,
            update_time=follower.update_time,
        )
    answer = saga.capture_leads_to(original, follower)
    return replace(
        original,
        state=saga.after(original, answer),
        version=original.version + 1,
        captured=original.captured + follower.amount,
        update_time=follower.update_time,
    )
