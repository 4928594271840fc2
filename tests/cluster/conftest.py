"""The charts' rendering, and a real API server, once a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import apiserver
from tests.support.apiserver import ApiServer
from tests.support.charts import NAMESPACE, Charts, helm


@pytest.fixture(scope="session")
def charts(tmp_path_factory: pytest.TempPathFactory) -> Charts:
    """The charts in a folder of their own."""
    made = Charts(helm(), tmp_path_factory.mktemp("charts"))
    made.build()
    return made


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server with the namespace of the tests, where only restricted pods are taken."""
    with apiserver.running(apiserver.binary(), tmp_path_factory.mktemp("apiserver")) as started:
        labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
        started.call("POST", "/api/v1/namespaces", namespace)
        yield started
