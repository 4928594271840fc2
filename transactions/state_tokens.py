"""State tokens: what a caller was shown of a transfer, sealed for that caller and that request, and held to when the
transfer is recorded. What the payer's account has to be like is accounts' to see, under its lock."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from florin.transactions.v1 import transfer_service_pb2
from meshkit import interceptors
from meshkit.cipher import Cipher
from meshkit.errors import DomainError
from transactions import errors, store
from transactions.model import Expected, Fee, StateToken, Transfer

_PURPOSE = "transfers.state_token"  # another form of the body gets another one, so that the older is not misread


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a token holds, beside whom and what it is for."""

    expected: Expected
    fee: Fee | None
    expire_time: datetime


class StateTokens:
    """Makes tokens and opens them; each of its own kind is told from what somebody made up, by the service's keys."""

    def __init__(self, cipher: Cipher, valid_seconds: float) -> None:
        self._cipher = cipher
        self._valid_for = timedelta(seconds=valid_seconds)

    def seal(self, transfer: Transfer, request: bytes, expected: Expected) -> tuple[str, datetime]:
        """The token of a transfer that was previewed, and until when it can be used; `request` is its fingerprint."""
        expire_time = transfer.create_time + self._valid_for
        fee = astuple(transfer.fee) if transfer.fee is not None else None
        body = [*_caller(transfer), request.hex(), expire_time.isoformat(), *astuple(expected), fee]
        sealed = self._cipher.encrypt(json.dumps(body, separators=(",", ":")), _PURPOSE)
        return base64.urlsafe_b64encode(sealed).decode().rstrip("="), expire_time

    async def applied(
        self, conn: AsyncConnection, transfers: Sequence[Transfer]
    ) -> tuple[list[Transfer], list[Transfer], dict[tuple[str, uuid.UUID], DomainError]]:
        """Priced transfers that can be recorded, with what their tokens expect; those that were recorded before, whose
        tokens may be over by now; and by (tenant, request_key) why others cannot be. Nothing is kept of these."""
        holding = [transfer for transfer in transfers if transfer.state_token is not None]
        asked = [(transfer.tenant, transfer.request_key, transfer.id) for transfer in holding]
        recorded = await store.find_by_request(conn, self._cipher, asked)
        known = {(t.tenant, t.request_key) for t in recorded} | {t.place for t in recorded}
        ready = [transfer for transfer in transfers if transfer.state_token is None]
        refused: dict[tuple[str, uuid.UUID], DomainError] = {}
        for transfer in holding:
            request = (transfer.tenant, transfer.request_key)
            if request in known or transfer.place in known:
                continue
            try:
                ready.append(self.held_to(transfer))
            except DomainError as refusal:
                refused[request] = refusal
        return ready, recorded, refused

    def held_to(self, transfer: Transfer) -> Transfer:
        """A new transfer with what its token expects of the payer's account.

        Raises StateTokenInvalid, StateTokenExpired, StateChanged where it would cost another fee.
        """
        if transfer.state_token is None:
            return transfer
        shown = self._open(transfer, transfer.state_token)
        if transfer.create_time >= shown.expire_time:
            raise errors.StateTokenExpired(shown.expire_time)
        if transfer.fee != shown.fee:
            raise errors.FeeChanged(transfer.currency, previewed=shown.fee, present=transfer.fee)
        return transfer.changed(expected=shown.expected)

    def _open(self, transfer: Transfer, token: StateToken) -> _Shown:
        try:
            sealed = base64.b64decode(token.text + "=" * (-len(token.text) % 4), altchars=b"-_", validate=True)
            body = json.loads(self._cipher.decrypt(sealed, _PURPOSE))
        except ValueError:
            raise errors.StateTokenInvalid("FORGED") from None
        *caller, request, expire_time, version, available, fee = body
        if caller != _caller(transfer):
            raise errors.StateTokenInvalid("CALLER")
        if request != token.request.hex():
            raise errors.StateTokenInvalid("REQUEST")
        return _Shown(
            Expected(version, available),
            Fee(*fee) if fee is not None else None,
            datetime.fromisoformat(expire_time),
        )


def fingerprint(request: transfer_service_pb2.CreateTransferRequest) -> bytes:
    """What a preview and the request that makes what it showed have in common."""
    copy = transfer_service_pb2.CreateTransferRequest()
    copy.CopyFrom(request)
    copy.ClearField("validate_only")
    copy.ClearField("state_token")
    return interceptors.fingerprint(copy)


def _caller(transfer: Transfer) -> list[str | None]:
    principal = transfer.principal
    return [principal.tenant, principal.subject, principal.customer]
