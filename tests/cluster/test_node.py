"""What a machine is told that cannot have a node."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cluster.node import machine


def test_without_root_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails and does not skip: a run without a cluster has shown nothing of one."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(AssertionError, match=r"needs Linux and root.*KUBECONFIG=… IMAGES=registry.example/florin"):
        machine.require()


def test_what_is_missing_is_named_as_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All of it at once, as a command."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(machine, "PROGRAMS", {"no-such-program": "its-package", "sh": "dash"})
    monkeypatch.setattr(machine, "PLUGINS", tmp_path)
    with pytest.raises(AssertionError, match=r"--no-install-recommends containernetworking-plugins its-package\Z"):
        machine.require()


def test_rules_of_others_are_none_of_ours() -> None:
    """Chains and rules of kubelet, kube-proxy and the network plugins are told by their names."""
    rules = {
        ":KUBE-SERVICES - [0:0]": True,
        "-A PREROUTING -j KUBE-SERVICES": True,
        "-A POSTROUTING -s 198.18.77.2/32 -j CNI-5f0": True,
        "-A FORWARD -o docker0 -j ACCEPT": False,
        ":INPUT ACCEPT [0:0]": False,
    }
    assert {line: machine.is_ours(line) for line in rules} == rules
