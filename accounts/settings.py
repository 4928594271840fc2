"""What the accounts service is told from outside: ACCOUNTS_* variables; it reads nothing itself."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field, FilePath, field_validator
from pydantic_settings import SettingsConfigDict
from sqlalchemy.engine import URL

from accounts import signing
from meshkit.settings import ServiceSettings, with_password


class Settings(ServiceSettings):
    """The common settings, the bounds of the ledger's batches, and the sealing of history."""

    model_config = SettingsConfigDict(env_prefix="ACCOUNTS_", frozen=True, extra="ignore")

    service: ClassVar[str] = "accounts"

    ledger_batch_max: int = Field(1000, ge=1, le=5000, description="Steps in one ledger transaction at most.")
    ledger_queue_max: int = Field(20_000, ge=1000, description="Steps that may wait; more are refused as OVERLOADED.")
    hold_expiry_seconds: float = Field(1, gt=0, description="How often holds are ended whose time is over.")
    imbalance_check_seconds: float = Field(60, gt=0, description="How often the sum of all balances is checked.")
    sealing_key_file: FilePath | None = Field(
        None, description="PEM file with the Ed25519 key that signs tree heads; without it nothing is sealed."
    )
    seal_seconds: float = Field(1.0, gt=0, description="A tenant's new journals get a signed head this often at most.")

    archiver_database_url: str | None = Field(
        None, description="The URL of the role that archives; only `archive --before` reads it."
    )
    archiver_database_password_file: FilePath | None = Field(
        None, description="File with the password of the role that archives."
    )

    @field_validator("archiver_database_url")
    @classmethod
    def _an_archivers_database(cls, value: str | None) -> str | None:
        return cls._a_database_without_a_password(value)

    @field_validator("archiver_database_password_file")
    @classmethod
    def _an_archivers_password(cls, value: Path | None) -> Path | None:
        return cls._a_password(value)

    def archiver_url(self) -> URL:
        """The database as `archive` sees it. Raises ValueError when it is not set."""
        if self.archiver_database_url is None:
            raise ValueError("archive needs archiver_database_url (and archiver_database_password_file)")
        return with_password(self.archiver_database_url, self.archiver_database_password_file)

    @field_validator("sealing_key_file")
    @classmethod
    def _a_key_that_signs(cls, value: Path | None) -> Path | None:
        if value is not None:
            signing.signer(value)
        return value

    overdraft_approval_hours: float = Field(
        72.0, gt=0, le=8760, description="How long a raised overdraft limit waits for a second person."
    )
    watches_max: int = Field(500, ge=1, description="Streams of accounts at once, per replica.")
    watches_per_subject_max: int = Field(20, ge=1, description="Streams of accounts of one subject, per replica.")
    watch_poll_seconds: float = Field(
        1.0, gt=0, description="How often the accounts that are followed are looked at for what other replicas did."
    )
    statement_entries_max: int = Field(100_000, ge=1, le=1_000_000, description="Entries in one statement at most.")
    bank_statement_bytes_max: int = Field(
        256 * 1024 * 1024, ge=1024, le=1024**3, description="Bytes of a bank's statement at most."
    )
    bank_statement_entries_max: int = Field(
        100_000,
        ge=1,
        le=200_000,
        description="Entries of a bank's statement at most; more take longer than an import may.",
    )
    reconciliation_days: int = Field(
        5, ge=0, le=30, description="Days that the value days of one amount on both sides may be apart."
    )
    reconciliation_seconds: float = Field(
        60.0, gt=0, description="How often entries of ours are matched that came after the last statement."
    )
