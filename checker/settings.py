"""What the checker is told from outside: CHECKER_* variables; it reads nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import Field, FilePath, field_validator
from pydantic_settings import SettingsConfigDict

from accounts import signing
from checker.findings import CLAIMS
from meshkit.process_settings import ProcessSettings, is_this_machine, text_of

SERVICES = ("accounts", "transactions", "compliance", "notifications")
_TOLD_ONLY = frozenset({"INV-4", "INV-7"})


class Settings(ProcessSettings):
    """Where the databases are, how fast they are gone through, and what freezes a ledger."""

    model_config = SettingsConfigDict(env_prefix="CHECKER_", frozen=True, extra="ignore")

    service: ClassVar[str] = "checker"

    accounts_target: str = Field(..., description="gRPC target of accounts, which freezes ledgers.")

    accounts_database_url: str = Field(..., description="postgresql+psycopg://role@host/database of accounts.")
    accounts_database_password_file: FilePath | None = Field(None, description="File with that role's password.")
    transactions_database_url: str = Field(..., description="The same of transactions.")
    transactions_database_password_file: FilePath | None = Field(None, description="File with that role's password.")
    compliance_database_url: str = Field(..., description="The same of compliance.")
    compliance_database_password_file: FilePath | None = Field(None, description="File with that role's password.")
    notifications_database_url: str = Field(..., description="The same of notifications.")
    notifications_database_password_file: FilePath | None = Field(None, description="File with that role's password.")
    accounts_owner_database_url: str | None = Field(None, description="The database as its owner; for grants alone.")
    accounts_owner_database_password_file: FilePath | None = Field(None, description="File with the owner's password.")
    transactions_owner_database_url: str | None = Field(None, description="The same of transactions.")
    transactions_owner_database_password_file: FilePath | None = Field(None, description="File with that password.")
    compliance_owner_database_url: str | None = Field(None, description="The same of compliance.")
    compliance_owner_database_password_file: FilePath | None = Field(None, description="File with that password.")
    notifications_owner_database_url: str | None = Field(None, description="The same of notifications.")
    notifications_owner_database_password_file: FilePath | None = Field(None, description="File with that password.")
    statement_timeout_ms: int = Field(
        4000, ge=100, description="A statement is ended after this, a snapshot soon after."
    )
    runtime_roles: dict[str, str] = Field(
        default_factory=dict, description="JSON: a service's runtime role where it is not <service>_runtime (INV-4)."
    )
    sealing_keys_file: FilePath | None = Field(
        None, description="PEM file with the public keys that tree heads are believed by; without it nobody's are told."
    )

    freezing_invariants: frozenset[str] = Field(
        frozenset(CLAIMS) - _TOLD_ONLY, description="JSON: the invariants whose violations freeze; others are told of."
    )
    sandbox_clock_file: FilePath | None = Field(
        None, description="For a sandbox alone: a file that says how far its clock is moved."
    )
    sweep_seconds: float = Field(5.0, gt=0, description="A table is gone through again after this at the earliest.")
    busy_share: float = Field(0.04, gt=0, le=1, description="Of the time that databases are read in, at most.")
    tail_seconds: float = Field(1.0, gt=0, description="How often what was posted is looked at.")
    tail_journals_max: int = Field(1000, ge=1, le=10_000, description="Of more new journals a sweep judges the rest.")
    confirm_seconds: float = Field(1.0, ge=0, description="Between two readings of one database.")
    settle_seconds: float = Field(10.0, ge=0, description="Between two readings of several databases.")
    events_hours: float = Field(
        24.0, gt=0, description="Changes of so long must have their events; less than any OUTBOX_RETENTION_HOURS."
    )

    @field_validator(*(f"{service}{of}_database_url" for service in SERVICES for of in ("", "_owner")))
    @classmethod
    def _a_database_without_a_password(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parameters = conninfo_to_dict(_libpq(value))
        except psycopg.ProgrammingError:
            raise ValueError("write it as postgresql+psycopg://role@host/database") from None
        if "password" in parameters:
            raise ValueError("it must hold no password; put it into a file and set the _PASSWORD_FILE")
        named = ",".join(str(parameters.get(name) or "") for name in ("host", "hostaddr"))
        is_local = "service" not in parameters and all(
            not host or host.startswith("/") or is_this_machine(host) for host in named.split(",")
        )
        if not is_local and "sslmode" not in parameters:
            raise ValueError(
                "a database on another host needs ?sslmode=verify-full&sslrootcert=…, or the sslmode you mean"
            )
        return value

    @field_validator("sealing_keys_file")
    @classmethod
    def _keys(cls, value: Path | None) -> Path | None:
        if value is not None:
            signing.verifying_keys(value)
        return value

    @field_validator("freezing_invariants")
    @classmethod
    def _known(cls, value: frozenset[str]) -> frozenset[str]:
        unknown = sorted(value - frozenset(CLAIMS))
        if unknown:
            raise ValueError(f"there is no {unknown[0]}")
        return value

    def connection(self, service: str, *, as_owner: bool = False) -> Mapping[str, Any]:
        """How a service's database is connected to, for libpq. Raises ValueError where the owner's is not told."""
        name = f"{service}_owner_database" if as_owner else f"{service}_database"
        url: str | None = getattr(self, f"{name}_url")
        if url is None:
            raise ValueError(f"CHECKER_{name.upper()}_URL is not set")
        parameters: dict[str, Any] = dict(conninfo_to_dict(_libpq(url)))
        password_file: Path | None = getattr(self, f"{name}_password_file")
        if password_file is not None:
            parameters["password"] = text_of(password_file).strip()
        return parameters

    def runtime_role(self, service: str) -> str:
        """The role that a service works as."""
        return self.runtime_roles.get(service, f"{service}_runtime")


def _libpq(url: str) -> str:
    """As libpq writes it; services' URLs name their driver too."""
    return url.replace("postgresql+psycopg://", "postgresql://", 1)
