"""The client for Node and browsers as its users get it: an npm package in an empty folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from clients import npm_package
from clients.stage import ROOT
from clients.toolchains import need, run
from tests.clients.conftest import Bank, judge_losses, judge_quickstart, quickstart

pytestmark = pytest.mark.timeout(600)
"""Building may compile and fetch a lot, the first time."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty project that installed the package, with what its lock file names."""
    folder = tmp_path_factory.mktemp("typescript")
    package = npm_package.build(folder)
    client = ROOT / "clients" / "typescript"
    dependencies = json.loads((client / "package.json").read_text())["dependencies"]
    (folder / "package.json").write_text(json.dumps({"private": True, "dependencies": dependencies}))
    # The same versions as the package was built with; npm takes them from its cache.
    lock = json.loads((client / "package-lock.json").read_text())
    pinned = {
        name.removeprefix("node_modules/"): one["version"]
        for name, one in lock["packages"].items()
        if name and not one.get("dev")
    }
    wanted = [f"{name}@{version}" for name, version in pinned.items()]
    run([need("npm", "Node"), "install", "--no-audit", "--no-fund", "--prefer-offline", *wanted, package], cwd=folder)
    return folder


def test_the_quickstart_runs(bank: Bank, project: Path) -> None:
    """The README's program, word for word."""
    (project / "quickstart.mjs").write_text(quickstart("typescript", "js"))
    judge_quickstart(bank.run(need("node", "Node"), "quickstart.mjs", cwd=project))


def test_the_clients_own_tests_pass_and_what_lost_its_answer_is_paid_once(bank: Bank, project: Path) -> None:
    """By gRPC and by gRPC-Web, through a proxy that loses an answer of each."""
    shutil.copytree(ROOT / "clients" / "typescript" / "test", project / "test")
    # Node's fetch, which stands for a browser's, learns of certificate authorities by its environment alone.
    more = {"NODE_EXTRA_CA_CERTS": str(bank.mesh.state.ca)}
    said = bank.run(need("node", "Node"), "--test", "--test-concurrency=1", "test/client.test.js", cwd=project,
                    lossy=True, more=more)  # fmt: skip
    assert "# fail 0" in said or "ℹ fail 0" in said
    judge_losses(bank, 2)
