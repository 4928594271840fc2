"""What `florin deploy canary` asks Helm for; that Helm and a cluster do it is shown by `make cluster`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from local.canary import Canary
from local.state import MeshError

HELM = """#!/usr/bin/env python3
import json, pathlib, sys
here = pathlib.Path(__file__).parent
with (here / "asked").open("a") as asked:
    print(json.dumps(sys.argv[1:]), file=asked)
if "--values=-" in sys.argv:
    (here / "values").write_text(sys.stdin.read())
if sys.argv[1] == "list":
    print((here / "releases").read_text())
if sys.argv[1:3] == ["get", "values"]:
    print((here / sys.argv[3]).read_text())
"""
SERVICE = {"service": "transactions", "image": {"tag": "1", "digest": "sha256:0"}, "autoscaling": {"enabled": True}}
TRIED = {"image": {"tag": "2"}}


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Canary:
    """A canary of transactions, with a stand-in for Helm that writes down what it is asked for."""
    program = tmp_path / "helm"
    program.write_text(HELM)
    program.chmod(0o755)
    monkeypatch.setenv("HELM", str(program))
    (tmp_path / "transactions-canary").write_text(json.dumps(TRIED))
    return Canary("transactions", "bank", tmp_path)


def installed(folder: Path, releases: dict[str, tuple[str, object]]) -> None:
    """What Helm knows: each release with its chart and its values."""
    (folder / "releases").write_text(
        json.dumps([{"name": name, "chart": chart} for name, (chart, _) in releases.items()])
    )
    for name, (_, values) in releases.items():
        (folder / name).write_text(json.dumps(values))


def changes(folder: Path) -> list[list[str]]:
    """What Helm was asked to change."""
    asked = [json.loads(line) for line in (folder / "asked").read_text().splitlines()]
    return [one for one in asked if one[0] not in {"list", "get"}]


def test_a_release_of_its_own_is_tried_and_taken_over(canary: Canary, tmp_path: Path) -> None:
    """Pods come before their share, the new version before the canary goes."""
    installed(tmp_path, {"transactions": ("service-0.1.0", SERVICE), "edge": ("edge-0.1.0", {})})
    canary.start("2", 5)
    made = json.loads((tmp_path / "values").read_text())
    assert (made["fullnameOverride"], made["replicas"]) == ("transactions-canary", 1)
    assert made["image"] == {"tag": "2", "digest": ""}
    assert made["autoscaling"] == {"enabled": False}
    assert canary.promote() == "2"
    done = [(one[0], *one[1:3]) for one in changes(tmp_path)]
    assert done == [
        ("upgrade", "--install", "transactions-canary"),
        ("upgrade", "edge", "edge"),
        ("upgrade", "transactions", "service"),
        ("upgrade", "edge", "edge"),
        ("uninstall", "transactions-canary", "--wait"),
    ]
    assert "canary.service=transactions,canary.percent=5" in changes(tmp_path)[1]
    assert "image.tag=2,image.digest=" in changes(tmp_path)[2]
    assert all(one[-2:] == ["--namespace", "bank"] for one in changes(tmp_path))


def test_a_part_of_the_umbrella_is_tried_and_taken_back(canary: Canary, tmp_path: Path) -> None:
    """With the values that the umbrella hands on, its `global` among them."""
    whole = {"global": {"image": {"registry": "r"}}, "transactions": {**SERVICE, "enabled": True}}
    installed(tmp_path, {"florin": ("florin-0.1.0", whole)})
    canary.start("2", 5)
    made = json.loads((tmp_path / "values").read_text())
    assert made["global"] == {"image": {"registry": "r"}}
    assert "enabled" not in made
    canary.end()
    upgrades = changes(tmp_path)
    assert "edge.canary.service=transactions,edge.canary.percent=5" in upgrades[1]
    assert "edge.canary.service=" in upgrades[2]
    assert upgrades[3][:2] == ["uninstall", "transactions-canary"]


def test_what_is_not_installed_is_refused(canary: Canary, tmp_path: Path) -> None:
    """By its name, and with where to look."""
    installed(tmp_path, {"accounts": ("service-0.1.0", SERVICE)})
    with pytest.raises(MeshError, match="No release in bank has transactions; see `helm list -n bank`"):
        canary.start("2", 5)
    with pytest.raises(MeshError, match="There is no service ledger"):
        Canary("ledger", "bank", tmp_path).start("2", 5)
