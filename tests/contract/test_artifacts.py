"""What is published of the contracts: all that is public with its comments, nothing internal, the same bytes always."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pool

from artifacts import contract, openapi, published, service_config
from artifacts.contract import Contract, Method

ROOT = Path(__file__).resolve().parents[2]
PRESENT = contract.load()
PUBLISHED = published.published(PRESENT.descriptors)
INTERNAL = ("LedgerService", "ScreeningService", "TransferScreened", "MethodPolicy", "florin.common.v1.policy")


def made(folder: Path, seed: str) -> dict[str, str]:
    """Makes everything in a process of its own; gives each file's hash."""
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    command = [sys.executable, "-m", "artifacts", "--output", str(folder)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_contracts_give_the_same_bytes(tmp_path: Path) -> None:
    """Two processes with other orders of sets and dictionaries write the same files to the byte."""
    first = made(tmp_path / "first", "1")
    assert first == made(tmp_path / "second", "2")
    assert {"descriptors.binpb", "openapi.json", "service_config.json", "permissions.md"} < set(first)


def test_nothing_internal_is_published() -> None:
    """No internal method or event, no option of Florin's own, nor any comment on them."""
    raw = PUBLISHED.SerializeToString()
    assert [name for name in INTERNAL if name.encode() in raw] == []
    names = {file.name for file in PUBLISHED.file}
    assert "florin/common/v1/policy.proto" not in names
    assert not any(name in file.dependency for file in PUBLISHED.file for name in ["florin/common/v1/policy.proto"])
    shown = {f"{file.package}.{s.name}/{m.name}" for file in PUBLISHED.file for s in file.service for m in s.method}
    assert shown == {method.full_name for method in PRESENT.methods}


def test_what_is_published_hangs_together() -> None:
    """Every import is there, before what needs it: a pool takes the files one after the other."""
    pool = descriptor_pool.DescriptorPool()
    for file in PUBLISHED.file:
        pool.Add(file)
    for method in PRESENT.methods:
        assert pool.FindServiceByName(method.service).methods_by_name[method.name].input_type.full_name


def test_every_comment_stays_with_what_it_is_about() -> None:
    """Positions moved where something was taken out before them; comments moved along."""
    before, after = PRESENT.comments, Contract(PUBLISHED).comments
    ours = {name: text for name, text in after.items() if name.startswith("florin.")}
    assert len(ours) > 2000
    assert [name for name, text in ours.items() if before[name] != text] == []
    maps = re.compile(r"Entry(\.key|\.value)?$")
    assert [name for name, text in ours.items() if not text and not maps.search(name)] == []


def test_stubs_need_no_rules_and_no_rest() -> None:
    """For stubs, the options of protovalidate and REST are gone with their imports, and messages are as they were."""
    plain = published.without(PUBLISHED, "buf/validate/validate.proto", "google/api/annotations.proto")
    ours = [file for file in plain.file if file.name.startswith("florin/")]
    assert b"buf.validate" not in b"".join(file.SerializeToString() for file in ours)
    assert {name for file in ours for name in file.dependency if "validate" in name or "annotations" in name} == set()
    fields = {(file.name, m.name, f.name, f.number) for file in ours for m in file.message_type for f in m.field}
    assert len(fields) > 1000
    before = [file for file in PUBLISHED.file if file.name.startswith("florin/")]
    assert fields == {
        (file.name, m.name, f.name, f.number) for file in before for m in file.message_type for f in m.field
    }


DOCUMENT = openapi.document(PRESENT)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, verb and operation."""
    for path, verbs in DOCUMENT["paths"].items():
        for verb, operation in verbs.items():
            yield path, verb, operation


def test_every_method_with_a_rest_mapping_is_an_operation() -> None:
    """None is missing and no two are called alike."""
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert sorted(ids) == sorted(m.name[:1].lower() + m.name[1:] for m in PRESENT.methods if m.route)
    assert len(ids) == len(set(ids)) > 100


def test_every_reference_leads_somewhere() -> None:
    """No $ref of the document is dangling, and no schema stands there for nothing."""
    text = json.dumps(DOCUMENT)
    referred = set(re.findall(r'"\$ref": "#/components/([a-z]+/[^"]+)"', text, re.IGNORECASE))
    there = {f"{kind}/{name}" for kind, items in DOCUMENT["components"].items() for name in items}
    assert referred - there == set()
    assert {name for name in there - referred if not name.startswith("securitySchemes/")} == set()


def test_every_parameter_of_a_path_is_told_and_needed() -> None:
    """What a path has in braces is a parameter in the path, once."""
    for path, _, operation in operations():
        told = [one["name"] for one in operation.get("parameters", []) if one["in"] == "path"]
        assert sorted(re.findall(r"\{(\w+)\}", path)) == sorted(told), path


def operation(name: str) -> dict[str, Any]:
    """An operation by its id."""
    return next(found for _, _, found in operations() if found["operationId"] == name)


def schema(name: str) -> dict[str, Any]:
    """A message's schema."""
    found: dict[str, Any] = DOCUMENT["components"]["schemas"][name]
    return found


def test_rules_of_the_contract_are_keywords() -> None:
    """Patterns, lengths, limits and what is needed; 64-bit integers are strings, what output alone has is marked."""
    request = schema("florin.transactions.v1.CreateTransferRequest")
    assert request["required"] == ["debitAccount", "creditAccount", "amount"]
    assert request["properties"]["remittance"]["maxLength"] == 140
    assert request["properties"]["debitAccount"]["pattern"].startswith("^(accounts/")
    assert "greater than zero" in request["properties"]["amount"]["description"]
    assert schema("florin.common.v1.Money")["properties"]["minorUnits"]["type"] == "string"
    assert schema("florin.transactions.v1.Transfer")["properties"]["state"]["readOnly"] is True
    batch = schema("florin.transactions.v1.BatchCreateTransfersRequest")["properties"]["requests"]
    assert (batch["minItems"], batch["maxItems"]) == (1, 1000)
    size = next(one for one in operation("listTransfers")["parameters"] if one["name"] == "pageSize")
    assert (size["schema"]["minimum"], size["schema"]["maximum"]) == (0, 1000)


def test_writes_take_an_idempotency_key_and_refusals_are_problems() -> None:
    """The header stands beside the field; every refusal's status has problem+json, and its reasons."""
    create = operation("createTransfer")
    assert "Idempotency-Key" in {one["name"] for one in create["parameters"]}
    assert "Idempotency-Key" not in {one["name"] for one in operation("listTransfers").get("parameters", [])}
    assert create["security"] == [{"token": ["transfers:write"]}]
    assert create["x-reasons"][-1] == "INSUFFICIENT_FUNDS"
    for status, answer in DOCUMENT["components"]["responses"].items():
        assert list(answer["content"]) == ["application/problem+json"], status
    assert "Retry-After" in DOCUMENT["components"]["responses"]["503"]["headers"]
    assert "INSUFFICIENT_FUNDS" in DOCUMENT["components"]["responses"]["400"]["x-reasons"]


def test_what_stands_in_the_path_is_not_in_the_body() -> None:
    """The edge refuses a field that stands in both."""
    cancel = operation("cancelTransfer")
    assert [one["name"] for one in cancel["parameters"] if one["in"] == "path"] == ["transfer"]
    assert "name" not in schema("florin.transactions.v1.CancelTransferRequest")["properties"]
    update = operation("updateAccount")
    assert {"updateMask", "requestId"} <= {one["name"] for one in update["parameters"] if one["in"] == "query"}
    body = update["requestBody"]["content"]["application/json"]["schema"]
    assert body["$ref"].endswith("florin.accounts.v1.Account")


CONFIG = {
    (one["name"][0]["service"], one["name"][0]["method"]): one
    for one in service_config.service_config(PRESENT)["methodConfig"]
}


@pytest.mark.parametrize("method", list(PRESENT.methods), ids=lambda method: method.name)
def test_a_library_sends_again_only_what_is_harmless_twice(method: Method) -> None:
    """Reads and what must carry a key are sent again; what may go without a key, and streams, are not."""
    found = CONFIG[method.service, method.name]
    assert found.get("timeout") == (f"{method.policy.deadline_ms / 1000:g}s" if method.policy.deadline_ms else None)
    if method.is_streaming:
        assert "retryPolicy" not in found
    elif method.policy.rate == 1:
        assert found["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]


def test_a_payment_without_a_key_is_never_sent_again_by_a_library() -> None:
    """CreateTransfer takes requests without a request_id: a copy would pay twice. Its batch refuses them."""
    service = "florin.transactions.v1.TransferService"
    assert "retryPolicy" not in CONFIG[service, "CreateTransfer"]
    assert "retryPolicy" in CONFIG[service, "BatchCreateTransfers"]
    assert "retryPolicy" in CONFIG[service, "ReverseTransfer"]
    assert "retryPolicy" in CONFIG["florin.accounts.v1.JournalService", "PostJournal"]
