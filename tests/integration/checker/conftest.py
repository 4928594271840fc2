"""A checker on databases of all services, in which somebody with every right changes what the ledger posted."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from accounts import signing
from accounts.model import AccountType
from accounts.sealing import Sealer
from accounts.settings import Settings as AccountsSettings
from checker.app import Running, running
from checker.findings import Violation
from checker.settings import SERVICES, Settings
from local.migrate import let_the_checker_read
from meshkit.database import Database
from meshkit.errors import Unavailable
from tests.integration.accounts.conftest import FUNDER, Ledger, new_ledger
from tests.integration.local import test_verify as rows
from tests.support import parts as real

_LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Freezer:
    """Accounts, as far as the checker sees it."""

    asked: list[tuple[str, str, list[Violation], datetime]] = field(default_factory=list)
    is_down: bool = False
    attempts: int = 0
    ended: list[int] = field(default_factory=list)
    """How many freezes each call knew to be ended."""

    async def freeze(
        self, tenant: str, currency: str, violations: Sequence[Violation], found_time: datetime, ended_freezes: int
    ) -> tuple[str, int]:
        """Notes what is asked for."""
        self.attempts += 1
        self.ended.append(ended_freezes)
        if self.is_down:
            raise Unavailable("accounts")
        self.asked.append((tenant, currency, list(violations), found_time))
        return "ledgerFreezes/x", len(violations)

    def frozen(self) -> set[tuple[str, str]]:
        """Tenants and currencies that were asked for."""
        return {(tenant, currency) for tenant, currency, *_ in self.asked}

    def found(self, tenant: str) -> set[tuple[str, str]]:
        """Invariants and objects that a tenant's ledger was to be frozen for."""
        return {
            (violation.invariant, violation.object)
            for whose, _, violations, _ in self.asked
            for violation in violations
            if whose == tenant
        }


@dataclass(slots=True)
class Bank:
    """Databases of all services, a ledger that can be posted in, and who may change everything."""

    parts: real.Parts
    names: dict[str, str]
    db: Database
    settings: Settings
    freezer: Freezer
    sealer: Sealer
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def ledger(self, payments: int = 3) -> Ledger:
        """A tenant with customer accounts "a" and "b", between which money moved."""
        made = await new_ledger(self.db)
        waiting = rows.transfer(self.urls, "DECLINED", told=0)
        # Whose journals are posted, as far as accounts knows; it is not over, so nothing more is asked of it.
        asked_for = "UPDATE transfers SET tenant = %s, id = 't', state = 'ACCEPTED', refusal = NULL, update_time = %s"
        rows.execute(self.urls, "transactions", f"{asked_for} WHERE id = %s", made.tenant, _LONG_AGO, waiting)
        await made.open("a", 1000, type=AccountType.CUSTOMER)
        await made.open("b", type=AccountType.CUSTOMER)
        for _ in range(payments):
            await self.pay(made)
        return made

    async def pay(self, ledger: Ledger, amount: int = 1) -> str:
        """A journal from "a" to "b"; gives its id."""
        (outcome,) = await ledger.apply(ledger.post(("a", -amount), ("b", amount), actor=FUNDER))
        return str(outcome.journal.journal.removeprefix("journals/"))

    async def seal(self) -> None:
        """Seals all that is posted."""
        while (await self.sealer.seal()).more:
            pass

    @property
    def urls(self) -> rows.Urls:
        """The databases, as their owners."""
        return {service: self.parts.url(name, f"{name}_owner") for service, name in self.names.items()}

    @contextmanager
    def superuser(self, service: str = "accounts") -> Iterator[psycopg.Connection[Any]]:
        """Somebody whom neither rights nor constraints stop."""
        with psycopg.connect(self.parts.postgres.admin_dsn(self.names[service])) as connection:
            connection.execute("SET session_replication_role = replica")
            yield connection

    @asynccontextmanager
    async def checked(self, **changes: Any) -> AsyncIterator[Running]:
        """A checker at work."""
        async with running(self.settings.model_copy(update=changes), self.freezer) as checker:
            yield checker

    async def freezes(self, tenant: str) -> set[tuple[str, str]]:
        """Waits until a tenant's ledger is asked to be frozen; gives what for."""

        async def asked() -> set[tuple[str, str]]:
            return self.freezer.found(tenant)

        found: set[tuple[str, str]] = await real.eventually(asked, 20)
        return found


@pytest.fixture(scope="module")
def names(parts: real.Parts) -> dict[str, str]:
    """A database of each service, which the checker's role may read."""
    made = {service: real.fresh_database(parts, service) for service in SERVICES}
    for service, name in made.items():
        let_the_checker_read(parts.url(name, f"{name}_owner"), service, f"{name}_checker")
    return made


@pytest.fixture(scope="module")
async def db(parts: real.Parts, names: dict[str, str]) -> AsyncIterator[Database]:
    """The ledger's database, as accounts sees it."""
    async with Database.open(real.settings_for(parts, AccountsSettings, names["accounts"])) as opened:
        yield opened


@pytest.fixture
async def bank(parts: real.Parts, names: dict[str, str], db: Database, tmp_path: Any) -> Bank:
    """All of it, with an impatient checker's settings."""
    key = tmp_path / "key.pem"
    key.write_text(signing.new_private_pem())
    signer = signing.signer(key)
    for service, name in names.items():
        _empty(parts, service, name)
    return Bank(parts, names, db, settings(parts, names), Freezer(), Sealer(db, signer, every_seconds=1))


def _empty(parts: real.Parts, service: str, name: str) -> None:
    with psycopg.connect(parts.postgres.admin_dsn(name)) as connection:
        rows = connection.execute(
            "SELECT string_agg(format('%I', relname), ', ') FROM pg_class WHERE relkind IN ('r', 'p')"
            " AND NOT relispartition AND relnamespace = 'public'::regnamespace AND relname <> 'alembic_version'"
        ).fetchone()
        connection.execute(f"TRUNCATE {rows[0] if rows else ''} CASCADE")  # type: ignore[arg-type]


def settings(parts: real.Parts, names: dict[str, str]) -> Settings:
    """The checker's settings on these databases."""
    certificate, key = parts.state.certificate("checker")
    values: dict[str, Any] = {
        "grpc_port": 0,
        "health_port": 0,
        "tls_cert_file": certificate,
        "tls_key_file": key,
        "tls_ca_file": parts.state.ca,
        "accounts_target": "unused",
        "sweep_seconds": 0.2,
        "busy_share": 0.5,
        "tail_seconds": 0.05,
        "confirm_seconds": 0.1,
        "settle_seconds": 0.5,
        "runtime_roles": {service: f"{name}_runtime" for service, name in names.items()},
    }
    for service, name in names.items():
        values[f"{service}_database_url"] = parts.postgres.address(name, f"{name}_checker")
        values[f"{service}_database_password_file"] = parts.postgres.password_file(f"{name}_checker")
    return Settings(**values)


async def rounds(checker: Running, number: int = 2) -> None:
    """Waits until everything was gone through again, so often."""
    for _ in range(number):
        before = checker.worker.whole_since

        async def later(before: float = before) -> bool:
            return checker.worker.whole_since > before

        await real.eventually(later, 20)
    await asyncio.sleep(0)


def new_id() -> str:
    """A UUID."""
    return str(uuid.uuid4())
