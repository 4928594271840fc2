"""Roles as bundles of scopes, for the development issuer; production's issuer gives scopes of its own."""

from __future__ import annotations

ROLES: dict[str, tuple[str, ...]] = {
    "customer": (
        "accounts:read",
        "transfers:read",
        "transfers:write",
        "events:read",
        "webhooks:read",
        "webhooks:write",
        "kyc:submit",
    ),
    "teller": (
        "customers:read",
        "customers:write",
        "accounts:read",
        "accounts:write",
        "transfers:read",
        "transfers:write",
        "events:read",
        "kyc:submit",
        "kyc:read",
    ),
    "compliance": (
        "customers:read",
        "accounts:read",
        "transfers:read",
        "compliance:read",
        "compliance:write",
        "kyc:read",
        "kyc:verify",
        "cases:resolve",
        "events:read",
    ),
    "auditor": (
        "customers:read",
        "accounts:read",
        "transfers:read",
        "compliance:read",
        "kyc:read",
        "events:read",
        "webhooks:read",
        "ledger:audit",
    ),
    "operator": (
        "customers:read",
        "accounts:read",
        "accounts:write",
        "transfers:read",
        "transfers:write",
        "ledger:fund",
        "limits:write",
        "rules:write",
        "watchlists:write",
        "webhooks:read",
        "webhooks:write",
        "events:read",
        "tenants:write",
        "compliance:read",
    ),
}
"""Role → scopes. A customer's token also names its customer and reaches only what is that customer's."""
