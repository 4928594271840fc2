"""Revisions: what a service that serves reads of them, and what the tools for migrating say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

from local.state import SERVICES
from meshkit import migrations


@pytest.mark.parametrize("service", SERVICES)
def test_the_newest_revision_is_told_by_the_names_of_the_files(service: str) -> None:
    """The name of a revision's file begins with its id, and the greatest is the head."""
    assert migrations.head(service) == migrations.scripts(service).get_current_head()


def test_no_service_imports_at_its_start_what_it_needs_later_or_never() -> None:
    """Each would cost every process a share of its start and of its memory."""
    services = [f"{service}.app" for service in SERVICES]
    assert _imported(services).isdisjoint({"alembic", "lxml", "rigour", "cel", "rapidfuzz", "opentelemetry"})


def test_the_supervisor_does_without_what_only_services_need() -> None:
    """`florin up` is a small process that lasts."""
    supervisor = ["local.live", "local.mesh", "local.rest"]
    assert _imported(supervisor).isdisjoint({"sqlalchemy", "grpc", "alembic", "nats", "pydantic", "aiohttp"})


def _imported(modules: Sequence[str]) -> set[str]:
    """What a fresh process has when it has imported these."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())
