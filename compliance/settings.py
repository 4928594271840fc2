"""What compliance is told from outside; it must not know defaults that only suit one machine."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from meshkit.settings import ServiceSettings


class Settings(ServiceSettings):
    """COMPLIANCE_* variables."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_prefix="COMPLIANCE_")
    service: ClassVar[str] = "compliance"

    match_score_min: float = Field(
        0.85, gt=0, le=1, description="A name that resembles a watchlist entry by this score or more is a match."
    )
    case_hours: float = Field(72.0, gt=0, description="An open case is declined by itself after this.")
    case_poll_seconds: float = Field(5.0, gt=0, description="How often cases past their time are looked for.")
    reservation_lease_seconds: float = Field(
        3600.0, gt=0, description="A payment that is not final after this shows as a lapsed reservation in the metrics."
    )
    customer_wait_seconds: float = Field(
        1.0, ge=0, description="How long SubmitKyc waits for the event of a customer that was just made."
    )
    watchlist_bytes_max: int = Field(
        64 * 1024 * 1024, ge=1024, description="The files of one watchlist import may have this many bytes."
    )
    watchlist_poll_seconds: float = Field(
        2.0, gt=0, description="How often new versions of watchlists are looked for and read into memory."
    )
    screening_batch_max: int = Field(500, ge=1, le=1000, description="Payments that are screened in one transaction.")
    match_cache_size: int = Field(20_000, ge=0, description="Names whose matches with a list version are remembered.")
