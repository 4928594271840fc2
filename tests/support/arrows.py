"""Kubernetes NetworkPolicies, evaluated as their specification says: who may connect to whom, without a cluster."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Party:
    """Somebody on the network: a pod by its labels, or an address outside of the cluster."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = "bank"
    address: str = ""
    """Set for those that are no pods; a policy's ipBlock means them alone."""


@dataclass(frozen=True, slots=True)
class Network:
    """All policies of a namespace."""

    policies: Sequence[Manifest]
    namespace: str = "bank"

    def allows(self, source: Party, target: Party, port: int, protocol: str = "TCP") -> bool:
        """Whether a connection may be opened: what leaves must be allowed to, and what comes in too."""
        leaves = self._side("Egress", source, target, port, protocol)
        return leaves and self._side("Ingress", target, source, port, protocol)

    def _side(self, direction: str, owner: Party, other: Party, port: int, protocol: str) -> bool:
        if owner.address or owner.namespace != self.namespace:
            return True  # not ours to decide
        about = [
            policy["spec"]
            for policy in self.policies
            if selects(policy["spec"]["podSelector"], owner.labels) and direction in policy["spec"]["policyTypes"]
        ]
        if not about:
            return True  # a pod without a policy is open
        rules = [rule for spec in about for rule in spec.get(direction.lower(), [])]
        peers = "to" if direction == "Egress" else "from"
        return any(self._peer(rule.get(peers), other) and _port(rule.get("ports"), port, protocol) for rule in rules)

    def _peer(self, peers: Sequence[Manifest] | None, other: Party) -> bool:
        if not peers:
            return True
        return any(self._is(peer, other) for peer in peers)

    def _is(self, peer: Manifest, other: Party) -> bool:
        if "ipBlock" in peer:
            if not other.address:
                return False
            address = ipaddress.ip_address(other.address)
            block = peer["ipBlock"]
            inside = address in ipaddress.ip_network(block["cidr"])
            return inside and not any(address in ipaddress.ip_network(one) for one in block.get("except", []))
        if other.address:
            return False
        namespaces = peer.get("namespaceSelector")
        place = {"kubernetes.io/metadata.name": other.namespace}
        right_place = other.namespace == self.namespace if namespaces is None else selects(namespaces, place)
        return right_place and selects(peer.get("podSelector", {}), other.labels)


def selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    """Whether a label selector means something with these labels. Raises AssertionError for forms we do not use."""
    assert set(selector) <= {"matchLabels"}, selector
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())


def _port(ports: Sequence[Manifest] | None, port: int, protocol: str) -> bool:
    if not ports:
        return True
    return any(
        one.get("protocol", "TCP") == protocol and one["port"] <= port <= one.get("endPort", one["port"])
        for one in ports
    )
