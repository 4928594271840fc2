"""Resume tokens of event streams: sealed positions, bound to their tenant; they must not tell anything else."""

from __future__ import annotations

import base64
import binascii

from meshkit.cipher import Cipher
from notifications.errors import ResumeTokenInvalid


class ResumeTokens:
    """Makes and reads tokens. Sealed, since a position counts the events of all tenants together."""

    def __init__(self, cipher: Cipher) -> None:
        self._cipher = cipher

    def make(self, tenant: str, position: int) -> str:
        """The token of the events after `position`."""
        sealed = self._cipher.encrypt(str(position), _purpose(tenant))
        return base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    def read(self, tenant: str, token: str) -> int:
        """The position in a token. Raises ResumeTokenInvalid for anything that was not made for this tenant."""
        try:
            sealed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
            return int(self._cipher.decrypt(sealed, _purpose(tenant)))
        except (binascii.Error, ValueError):
            raise ResumeTokenInvalid from None


def _purpose(tenant: str) -> str:
    return f"events.resume/{tenant}"
