"""Settings are documented where they are declared, and README tables name each of them."""

from __future__ import annotations

import importlib

import pytest

from meshkit.process_settings import ProcessSettings
from meshkit.settings import ServiceSettings
from tests.tidy.test_style import ROOT, SERVICES

PROCESSES = (*SERVICES, "checker")


def settings_class(service: str) -> type[ProcessSettings]:
    """The settings class of a service, or of the checker."""
    module = importlib.import_module(f"{service}.settings")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, ProcessSettings)
        and value not in (ProcessSettings, ServiceSettings)
    ]
    assert len(found) == 1, f"{service}/settings.py declares {len(found)} settings classes"
    return found[0]


@pytest.mark.parametrize("service", PROCESSES)
def test_every_setting_says_what_it_is(service: str) -> None:
    """A setting without a description cannot be set by anyone but its author."""
    undescribed = [name for name, field in settings_class(service).model_fields.items() if not field.description]
    assert undescribed == []


@pytest.mark.parametrize("service", PROCESSES)
def test_every_setting_of_its_own_stands_in_the_readme(service: str) -> None:
    """What a service adds to the common settings is in its README."""
    readme = (ROOT / service / "README.md").read_text()
    common = ServiceSettings if service in SERVICES else ProcessSettings
    own = set(settings_class(service).model_fields) - set(common.model_fields)
    prefix = service.upper()
    missing = [name for name in sorted(own) if f"{prefix}_{name.upper()}" not in readme and name not in readme]
    assert missing == []
