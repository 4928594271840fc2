"""Rendered charts for the tests: the real helm, several sets of values, each rendered once a session."""

from __future__ import annotations

import pytest

from tests.support.charts import Charts, Objects, helm

EVALUATION: tuple[str, ...] = ()
PRODUCTION = ("-f", "values-production.yaml")


@pytest.fixture(scope="session")
def charts(tmp_path_factory: pytest.TempPathFactory) -> Charts:
    """The charts in a folder of their own, with what the umbrella depends on put into it."""
    made = Charts(helm(), tmp_path_factory.mktemp("charts"))
    made.build()
    return made


@pytest.fixture(scope="session")
def evaluation(charts: Charts) -> Objects:
    """The umbrella as it stands."""
    return charts.render("florin", *EVALUATION)


@pytest.fixture(scope="session")
def production(charts: Charts) -> Objects:
    """The umbrella with the values that a deployment begins with."""
    return charts.render("florin", *PRODUCTION)


@pytest.fixture(scope="session", params=["evaluation", "production"])
def objects(request: pytest.FixtureRequest) -> Objects:
    """Either of them."""
    found: Objects = request.getfixturevalue(request.param)
    return found
