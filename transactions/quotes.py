"""New transfers that use quotes, in the transaction that records them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from meshkit.cipher import Cipher
from meshkit.errors import DomainError
from transactions import exchange, exchange_errors, exchange_store, store
from transactions.model import Transfer

_Request = tuple[str, uuid.UUID]


async def applied(
    conn: AsyncConnection, cipher: Cipher, transfers: Sequence[Transfer]
) -> tuple[list[Transfer], list[Transfer], dict[_Request, DomainError]]:
    """Transfers that can be recorded, with what their quotes make of them; those that were recorded before, whose
    quotes may be over by now; and by (tenant, request_key) why others cannot be.

    That one quote is not used twice is the table's to say, when they are recorded. What is refused stays refused, also
    for a copy of the request that comes late: whoever was told so asks for another quote and pays by that one.
    """
    quoting = [transfer for transfer in transfers if transfer.quote]
    moment = await exchange_store.lock_quotes(conn, [(t.tenant, t.quote) for t in quoting])
    recorded = await store.find_by_request(conn, cipher, [(t.tenant, t.request_key, t.id) for t in quoting])
    known = {(t.tenant, t.request_key) for t in recorded} | {t.place for t in recorded}
    found = await exchange_store.read_quotes(conn, sorted({(t.tenant, t.quote) for t in quoting}))
    ready = [transfer for transfer in transfers if not transfer.quote]
    refused: dict[_Request, DomainError] = {}
    for transfer in quoting:
        request = (transfer.tenant, transfer.request_key)
        if request in known or transfer.place in known:
            continue
        try:
            ready.append(exchange.exchanged(transfer, found.get((transfer.tenant, transfer.quote)), moment))
        except DomainError as refusal:
            refused[request] = refusal
    return ready, recorded, refused


async def previewed(conn: AsyncConnection, transfer: Transfer) -> Transfer:
    """A transfer that is not to be recorded, with what its quote makes of it.

    Raises QuoteNotFound, QuoteExpired, QuoteMismatch, QuoteUsed.
    """
    place = (transfer.tenant, transfer.quote)
    found = (await exchange_store.read_quotes(conn, [place])).get(place)
    quoted = exchange.exchanged(transfer, found, transfer.create_time)
    if place in await exchange_store.users_of(conn, [place]):
        raise exchange_errors.QuoteUsed(transfer.quote)
    return quoted
