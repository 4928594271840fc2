"""What the accounts service is told from outside: ACCOUNTS_* variables; it reads nothing itself."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from meshkit.settings import ServiceSettings


class Settings(ServiceSettings):
    """The common settings, and the bounds of the ledger's batches."""

    model_config = SettingsConfigDict(env_prefix="ACCOUNTS_", frozen=True, extra="ignore")

    service: ClassVar[str] = "accounts"

    ledger_batch_max: int = Field(1000, ge=1, le=5000, description="Steps in one ledger transaction at most.")
    ledger_queue_max: int = Field(20_000, ge=1000, description="Steps that may wait; more are refused as OVERLOADED.")
    imbalance_check_seconds: float = Field(60, gt=0, description="How often the sum of all balances is checked.")
    statement_entries_max: int = Field(100_000, ge=1, le=1_000_000, description="Entries in one statement at most.")
