"""Reasons for refusals: what the contracts document, what errors.proto defines and what the services raise agree."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from florin.common.v1 import errors_pb2, policy_pb2

ROOT = Path(__file__).resolve().parents[2]
DESCRIPTORS = Path(policy_pb2.__file__).resolve().parents[3] / "descriptors.binpb"
SERVICES = ("accounts", "transactions", "compliance", "notifications")
REASONS = {value.name.removeprefix("REASON_"): value.number for value in errors_pb2.Reason.DESCRIPTOR.values}
_WORD = re.compile(r"\b[A-Z][A-Z]+(?:_[A-Z]+)*\b")
PASSED_ON = {
    # These reach callers of transactions as accounts gave them.
    "transactions": {
        "ACCOUNT_TYPE_WRONG",
        "ACCOUNT_PENDING",
        "ACCOUNT_FROZEN",
        "ACCOUNT_CLOSED",
        "ACCOUNT_DEBITS_BLOCKED",
        "ACCOUNT_CREDITS_BLOCKED",
        "AMOUNT_OVERFLOW",
        "INSUFFICIENT_FUNDS",
    },
}


def documented() -> Iterator[tuple[str, str, list[str]]]:
    """Each method with the service that owns it and the reasons in its comment, in their order."""
    everything = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    for file in everything.file:
        comments = {tuple(location.path): location.leading_comments for location in file.source_code_info.location}
        for at, service in enumerate(file.service):
            for number, method in enumerate(service.method):
                # 6 is the services of a file, 2 the methods of a service (descriptor.proto).
                text = " ".join(comments.get((6, at, 2, number), "").split())
                listed = re.search(r"(?:Reasons|Per item)[^:]*: ([^.]*)\.", text)
                owner = file.package.split(".")[1]
                yield owner, f"{service.name}/{method.name}", _WORD.findall(listed[1]) if listed else []


def raised(service: str) -> list[str]:
    """The reasons of the refusals in a service's errors.py, and in what was too much for it, in their order."""
    paths = [ROOT / service / "errors.py", *sorted((ROOT / service).glob("*_errors.py"))]
    return [reason for path in paths for reason in _reasons(path)]


def _reasons(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                target = statement.target if isinstance(statement, ast.AnnAssign) else None
                if isinstance(statement, ast.Assign):
                    target = statement.targets[0]
                if isinstance(target, ast.Name) and target.id == "reason":
                    value = getattr(statement, "value", None)
                    if isinstance(value, ast.Attribute):
                        found.append(value.attr.removeprefix("REASON_"))
    return found


METHODS = {name: (owner, reasons) for owner, name, reasons in documented()}


@pytest.mark.parametrize("method", METHODS)
def test_a_methods_documented_reasons_exist(method: str) -> None:
    """Each method lists reasons, each is one of errors.proto, and none stands twice."""
    _, reasons = METHODS[method]
    unknown = [reason for reason in reasons if reason not in REASONS]
    assert unknown == []
    assert len(set(reasons)) == len(reasons)


@pytest.mark.parametrize("service", SERVICES)
def test_what_a_service_documents_it_can_raise(service: str) -> None:
    """Every documented reason has a refusal, in the service's errors.py, in the kit's, or handed on by name."""
    known = {*raised(service), *_reasons(ROOT / "meshkit" / "errors.py"), *PASSED_ON.get(service, ())}
    missing = {
        f"{name}: {reason}"
        for name, (owner, reasons) in METHODS.items()
        if owner == service
        for reason in reasons
        if reason not in known
    }
    assert missing == set()


@pytest.mark.parametrize("service", SERVICES)
def test_what_a_service_raises_is_documented(service: str) -> None:
    """Every refusal of a service's errors.py stands in the comment of one of its methods."""
    told = {reason for owner, reasons in METHODS.values() if owner == service for reason in reasons}
    assert [reason for reason in raised(service) if reason not in told] == []


def test_every_reason_is_in_the_table_of_the_documentation() -> None:
    """docs/errors.md lists each reason with the sentence of errors.proto, and no other."""
    text = (ROOT / "docs" / "errors.md").read_text()
    listed = re.findall(r"^\| `([A-Z_]+)` \| (.*) \|$", text, flags=re.MULTILINE)
    assert listed == reasons_table(), UPDATE


UPDATE = """docs/errors.md lags behind errors.proto; put this between its table's head and end:
    .venv/bin/python -m tests.contract.test_reasons"""


def reasons_table() -> list[tuple[str, str]]:
    """Each reason with its comment, in the order of errors.proto."""
    everything = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    file = next(file for file in everything.file if file.name == "florin/common/v1/errors.proto")
    at = next(index for index, enum in enumerate(file.enum_type) if enum.name == "Reason")
    comments = {tuple(location.path): location.leading_comments for location in file.source_code_info.location}
    return [
        (value.name.removeprefix("REASON_"), " ".join(comments[5, at, 2, number].split()))
        for number, value in enumerate(file.enum_type[at].value)
        if value.number
    ]


if __name__ == "__main__":
    import sys

    sys.stdout.write("".join(f"| `{reason}` | {text} |\n" for reason, text in reasons_table()))
