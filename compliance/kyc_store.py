"""SQL of customers, tenants and KYC profiles; it decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from compliance.model import KycProfile, KycState
from meshkit.cipher import Cipher
from meshkit.database import fetch

_LEGAL_NAME, _BIRTH_DATE = "kyc_profiles.legal_name", "kyc_profiles.birth_date"

_COLUMNS = (
    "tenant, customer, legal_name, country_code, birth_date, state, watchlist_matches, submitted_by, decided_by,"
    " reason, version, create_time, update_time"
)
_SAVE = text(
    f"INSERT INTO kyc_profiles ({_COLUMNS}) VALUES (:tenant, :customer, :legal_name, :country_code,"  # noqa: S608
    " :birth_date, :state, :watchlist_matches, :submitted_by, :decided_by, :reason, :version, :create_time,"
    " :update_time) ON CONFLICT (tenant, customer) DO UPDATE SET legal_name = excluded.legal_name,"
    " country_code = excluded.country_code, birth_date = excluded.birth_date, state = excluded.state,"
    " watchlist_matches = excluded.watchlist_matches, submitted_by = excluded.submitted_by,"
    " decided_by = excluded.decided_by, reason = excluded.reason, version = excluded.version,"
    " update_time = excluded.update_time"
)


async def add_tenants(conn: AsyncConnection, tenants: Sequence[tuple[str, str, datetime]]) -> None:
    """Keeps (tenant, time zone, create time); a tenant that is known stays as it is."""
    rows = sorted(tenants)
    await conn.exec_driver_sql(
        "INSERT INTO tenants (tenant, time_zone, create_time)"
        " SELECT * FROM unnest(%s::text[], %s::text[], %s::timestamptz[]) ON CONFLICT DO NOTHING",
        tuple([row[at] for row in rows] for at in range(3)),
    )


async def add_customers(conn: AsyncConnection, customers: Sequence[tuple[str, str, datetime]]) -> None:
    """Keeps (tenant, customer id, create time); a customer that is known stays as it is."""
    rows = sorted(customers)
    await conn.exec_driver_sql(
        "INSERT INTO customers (tenant, customer, create_time)"
        " SELECT * FROM unnest(%s::text[], %s::text[], %s::timestamptz[]) ON CONFLICT DO NOTHING",
        tuple([row[at] for row in rows] for at in range(3)),
    )


async def lock_customer(conn: AsyncConnection, tenant: str, customer: str) -> bool:
    """Whether the customer is known; locks it, so that what is done about one customer is done in turn."""
    found = await conn.execute(
        text("SELECT 1 FROM customers WHERE tenant = :tenant AND customer = :customer FOR NO KEY UPDATE"),
        {"tenant": tenant, "customer": customer},
    )
    return found.first() is not None


async def knows_customer(conn: AsyncConnection, tenant: str, customer: str) -> bool:
    """Whether the customer's event has arrived."""
    found = await conn.execute(
        text("SELECT 1 FROM customers WHERE tenant = :tenant AND customer = :customer"),
        {"tenant": tenant, "customer": customer},
    )
    return found.first() is not None


async def read_profile(
    conn: AsyncConnection, cipher: Cipher, tenant: str, customer: str, *, lock: bool = False
) -> KycProfile | None:
    """One profile, opened."""
    found = await conn.execute(
        text(
            f"SELECT {_COLUMNS} FROM kyc_profiles"  # noqa: S608
            " WHERE tenant = :tenant AND customer = :customer" + (" FOR UPDATE" if lock else "")
        ),
        {"tenant": tenant, "customer": customer},
    )
    row = found.first()
    return None if row is None else _profile(row, cipher)


async def read_profiles(
    conn: AsyncConnection, cipher: Cipher, customers: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], KycProfile]:
    """Profiles by (tenant, customer id), opened; those that are missing are left out."""
    rows = await fetch(
        conn,
        f"SELECT {_COLUMNS} FROM kyc_profiles"  # noqa: S608
        " WHERE (tenant, customer) IN (SELECT * FROM unnest(%s::text[], %s::text[]))",
        ([tenant for tenant, _ in customers], [customer for _, customer in customers]),
    )
    profiles = [_profile(row, cipher) for row in rows]
    return {(profile.tenant, profile.customer): profile for profile in profiles}


async def save_profile(conn: AsyncConnection, cipher: Cipher, profile: KycProfile) -> None:
    """Writes a profile, sealed."""
    await conn.execute(
        _SAVE,
        {
            "tenant": profile.tenant,
            "customer": profile.customer,
            "legal_name": cipher.encrypt(profile.legal_name, _purpose(_LEGAL_NAME, profile.tenant, profile.customer)),
            "country_code": profile.country_code,
            "birth_date": cipher.encrypt(profile.birth_date, _purpose(_BIRTH_DATE, profile.tenant, profile.customer)),
            "state": profile.state.value,
            "watchlist_matches": list(profile.watchlist_matches),
            "submitted_by": profile.submitted_by,
            "decided_by": profile.decided_by,
            "reason": profile.reason,
            "version": profile.version,
            "create_time": profile.create_time,
            "update_time": profile.update_time,
        },
    )


def _purpose(column: str, tenant: str, customer: str) -> str:
    """Binds a ciphertext to its row, so that one customer's name cannot be put into another's profile."""
    return f"{column}/{tenant}/{customer}"


def _profile(row: Sequence[Any], cipher: Cipher) -> KycProfile:
    tenant, customer, legal_name, country_code, birth_date, state, matches, *rest = row
    return KycProfile(
        tenant,
        customer,
        cipher.decrypt(legal_name, _purpose(_LEGAL_NAME, tenant, customer)),
        country_code,
        cipher.decrypt(birth_date, _purpose(_BIRTH_DATE, tenant, customer)),
        KycState(state),
        tuple(matches),
        *rest,
    )
