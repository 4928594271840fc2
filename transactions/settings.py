"""What the transactions service is told from outside, beside what all services are."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from meshkit.settings import ServiceSettings

_ACCOUNT_TEMPLATE = r"^accounts/[a-z0-9][a-z0-9-]*\{currency\}[a-z0-9-]*$"


class Settings(ServiceSettings):
    """TRANSACTIONS_* variables."""

    model_config = SettingsConfigDict(env_prefix="TRANSACTIONS_", frozen=True, extra="ignore")
    service: ClassVar[str] = "transactions"

    accounts_target: str = Field(..., description="gRPC target of accounts: ipv4:host:port,… or dns:///name:port.")
    compliance_target: str = Field(..., description="gRPC target of compliance.")
    screening_posture: Literal["closed", "stand-in"] = Field(
        "closed", description="While compliance is down: payments wait (closed), or small ones pass (stand-in)."
    )
    stand_in_maximum: dict[str, int] = Field(
        default_factory=dict, description='Most a stand-in decision lets pass, by currency: {"EUR": 5000}.'
    )
    passes_in_flight: int = Field(3, ge=1, le=16, description="Batches that are on their way at once.")
    batch_max: int = Field(1000, ge=1, le=1000, description="Transfers in a batch at most.")
    step_timeout_ms: int = Field(4000, ge=100, description="Longest wait for accounts or compliance in one step.")
    recovery_poll_ms: int = Field(250, ge=10, description="How often overdue transfers are looked for.")
    recovery_lease_ms: int = Field(
        5000, ge=100, description="A transfer is overdue when nothing happened for this long."
    )
    schedule_poll_ms: int = Field(1000, ge=10, description="How often due schedules are looked for, at the least.")
    schedule_late_hours: int = Field(
        168, ge=1, le=8760, description="A run that could not begin for this long is skipped, not made up for."
    )
    schedules_max: int = Field(1000, ge=1, description="Schedules that a customer may have open at once.")
    fee_schedule_refresh_ms: int = Field(
        1000, ge=10, le=4000, description="How often fee schedules are read; after five seconds they must have been."
    )
    quote_valid_seconds: int = Field(30, ge=1, le=3600, description="How long a quote can be used.")
    exchange_rate_age_max_seconds: int = Field(
        3600, ge=1, description="Quotes are made of no exchange rate that its source gave longer ago."
    )
    state_token_seconds: int = Field(
        120, ge=1, le=3600, description="How long what was previewed can be made as it was shown, by its state token."
    )
    streams_max: int = Field(16, ge=1, le=1000, description="Streams of transfers at once, of all callers.")
    streams_per_tenant_max: int = Field(12, ge=1, le=1000, description="Streams of transfers at once, of one tenant.")
    streams_per_subject_max: int = Field(4, ge=1, le=1000, description="Streams of transfers at once, of one caller.")
    stream_in_flight_max: int = Field(1000, ge=1, le=1000, description="Transfers of one stream that are under way.")
    stream_idle_seconds: float = Field(
        120, gt=0, le=240, description="A stream on which nothing happens for this long is ended; the edge waits 300 s."
    )
    payment_file_bytes_max: int = Field(
        128 * 1024 * 1024, ge=1024, le=1024**3, description="Bytes of a file of payments at most."
    )
    payment_file_items_max: int = Field(
        100_000,
        ge=1,
        le=200_000,
        description="Payments of a file at most; more are not read in an upload's two minutes.",
    )
    payment_file_lot: int = Field(
        500, ge=1, le=1000, description="Payments of a file that are made at once; one lot at a time."
    )
    business_time_zone: str = Field(
        "UTC", description="IANA time zone of the bank's day: payments of a file that are dated after it are refused."
    )

    rail_folder: Path | None = Field(
        None, description="Folder of the rail to other banks, with one for each tenant in it; no rail if absent."
    )
    rail_bic: str = Field(
        "",
        pattern=r"^([A-Z0-9]{4}[A-Z]{2}[A-Z0-9]{2}([A-Z0-9]{3})?)?$",
        description="The bank's own BIC; the rail needs it.",
    )
    rail_settlement_account: str = Field(
        "accounts/rail-{currency}",
        pattern=_ACCOUNT_TEMPLATE,
        description="The settlement account of a currency, {currency} in lower case: money out and in goes through it.",
    )
    rail_suspense_account: str = Field(
        "accounts/rail-suspense-{currency}",
        pattern=_ACCOUNT_TEMPLATE,
        description="The suspense account of a currency, for money that cannot be credited.",
    )
    rail_poll_ms: int = Field(1000, ge=10, description="How often the rail's folder is looked at.")
    rail_message_payments_max: int = Field(1000, ge=1, le=10_000, description="Payments of a message at most.")
    rail_settle_seconds: float = Field(
        10.0, gt=0, le=3600, description="A file that is no whole XML is refused when it did not change for this long."
    )

    @model_validator(mode="after")
    def _rail_has_a_bic(self) -> Settings:
        if self.rail_folder is not None and not self.rail_bic:
            raise ValueError("TRANSACTIONS_RAIL_FOLDER needs TRANSACTIONS_RAIL_BIC, the bank's own BIC")
        return self

    @field_validator("business_time_zone")
    @classmethod
    def _known_time_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f'"{name}" is no IANA time zone such as "Europe/Vienna"') from None
        return name

    @property
    def recovery_lease_seconds(self) -> float:
        """`recovery_lease_ms` as the database's intervals want it."""
        return self.recovery_lease_ms / 1000
