"""The permission matrix: what the contracts allow to whom, kept as a golden file so that no change goes unseen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2

from florin.common.v1 import policy_pb2
from local.roles import ROLES

GOLDEN = Path(__file__).parent / "golden" / "permissions.md"
DESCRIPTORS = Path(policy_pb2.__file__).resolve().parents[3] / "descriptors.binpb"
RESERVED = {"compliance:write"}
"""Given to a role for methods that are still to come."""

UPDATE = f"""The contracts' permissions changed. If that is meant, write the new matrix and look at its diff:
    .venv/bin/python -m tests.contract.test_permissions > tests/contract/golden/{GOLDEN.name}"""


@dataclass(frozen=True, slots=True)
class Row:
    """A method with its policy."""

    service: str
    method: str
    policy: Any

    @property
    def name(self) -> str:
        """Service and method, without the package's prefix."""
        return f"{self.service}/{self.method}"

    def open_to(self, role: str) -> str:
        """Whether a role may call it: yes, its own resources alone, or no."""
        policy = self.policy
        if policy.services or not set(ROLES[role]) & set(policy.scopes):
            return "–"
        if role != "customer":
            return "yes"
        return "–" if policy.staff_only else "own"


def rows() -> Iterator[Row]:
    """Every method of the contracts, in their order."""
    everything = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    for file in everything.file:
        for service in file.service:
            for method in service.method:
                yield Row(service.name, method.name, method.options.Extensions[policy_pb2.policy])


def matrix() -> str:
    """The golden file's text."""
    made = list(rows())
    lines = [
        "# Who may call what",
        "",
        "Made from the contracts and `local/roles.py` by `tests/contract/test_permissions.py`; do not edit.",
        "",
        "## What each method asks for",
        "",
        "Scopes: any of them. Owner: fields whose resources a customer must own. Services: identities that may call an",
        "internal method, which the edge does not route. A deadline of 0 is a stream without a limit.",
        "",
        "| Method | Scopes | Owner | Staff only | Services | Deadline, ms | Rate | Idempotent |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in made:
        policy = row.policy
        cells = [
            row.name,
            ", ".join(policy.scopes) or "–",
            ", ".join(policy.owner) or "–",
            "yes" if policy.staff_only else "–",
            ", ".join(policy.services) or "–",
            str(policy.deadline_ms),
            policy_pb2.Rate.Name(policy.rate).removeprefix("RATE_"),
            "yes" if policy.idempotent else "no",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "## What each role may call",
        "",
        "“own”: only on what belongs to the customer that the token names; anything else looks as if it did not exist.",
        "",
        f"| Method | {' | '.join(ROLES)} |",
        f"|---|{'---|' * len(ROLES)}",
    ]
    lines += [
        f"| {row.name} | {' | '.join(row.open_to(role) for role in ROLES)} |" for row in made if row.policy.scopes
    ]
    return "\n".join(lines) + "\n"


def test_the_permission_matrix_is_the_committed_one() -> None:
    """A scope dropped, a role widened or a method added shows in the golden file's diff, or fails here."""
    assert GOLDEN.read_text() == matrix(), UPDATE


def test_every_method_is_either_public_with_scopes_or_internal_with_callers() -> None:
    """No method is open to all, and none is both."""
    wrong = [row.name for row in rows() if bool(row.policy.scopes) == bool(row.policy.services)]
    assert wrong == []


def test_every_method_has_a_rate_and_only_streams_have_no_deadline() -> None:
    """What is not limited in time is a stream of events, of an account's changes or of transfers, nothing else."""
    assert [row.name for row in rows() if row.policy.rate == policy_pb2.RATE_UNSPECIFIED] == []
    assert [row.name for row in rows() if row.policy.deadline_ms == 0] == [
        "BalanceService/WatchAccount",
        "NotificationService/StreamEvents",
        "TransferService/StreamTransfers",
    ]


def test_every_scope_of_the_contracts_belongs_to_a_role_and_every_role_uses_its_scopes() -> None:
    """A scope nobody has makes a method unreachable; one that no method asks for is a mistake in a name."""
    asked = {scope for row in rows() for scope in row.policy.scopes} | RESERVED
    given = {scope for scopes in ROLES.values() for scope in scopes}
    assert asked == given


def test_no_auditor_may_change_anything() -> None:
    """Auditors read: every method open to them is of the class of reads."""
    changing = [
        row.name
        for row in rows()
        if row.policy.scopes and row.open_to("auditor") == "yes" and row.policy.rate != policy_pb2.RATE_READ
    ]
    assert changing == []


if __name__ == "__main__":
    import sys

    sys.stdout.write(matrix())
