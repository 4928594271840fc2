"""Lays a client's package out in build/clients: what is written by hand, and what is made of the contracts.

The stubs are made from the published contracts without protovalidate's rules and REST's paths: who calls needs neither,
and so the packages need nothing of their own kind but gRPC and protobuf. Where a language asks for names in the
contracts' own files (Go, Java), they are set here, so that the contracts stay free of them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc as bundled

from artifacts import contract
from artifacts.published import published, without
from clients.toolchains import run
from florin.common.v1 import policy_pb2
from meshkit.money import EXPONENTS

ROOT = Path(__file__).resolve().parents[1]
STAGE = ROOT / "build" / "clients"
GO_MODULE = "florin.example/client"
"""A name that needs no host: the module comes as files that Go's own proxy protocol reads."""
SERVICES = {
    "AccountService": "accounts",
    "AuditService": "audit",
    "BalanceService": "balances",
    "FreezeService": "freezes",
    "JournalService": "journals",
    "OverdraftService": "overdrafts",
    "ReconciliationService": "reconciliation",
    "StatementService": "statements",
    "ComplianceService": "compliance",
    "NotificationService": "notifications",
    "ExchangeService": "exchange",
    "FeeService": "fees",
    "PaymentFileService": "payment_files",
    "RailService": "rails",
    "ScheduleService": "schedules",
    "TransferService": "transfers",
}
"""What a client calls each public service."""
_OF_GOOGLE = frozenset(
    {
        "google/api/httpbody.proto",
        "google/rpc/error_details.proto",
        "google/rpc/status.proto",
        "google/type/decimal.proto",
    }
)
"""What the contracts take from Google's beside protobuf's own."""


def lay_out(language: str) -> Path:
    """The folder of a client with all that is written by hand, anew. Its version is the repository's."""
    folder = STAGE / language
    shutil.rmtree(folder, ignore_errors=True)
    ignored = shutil.ignore_patterns("node_modules", "target", "__pycache__", "*.egg-info", "dist")
    shutil.copytree(ROOT / "clients" / language, folder, ignore=ignored)
    shutil.copyfile(ROOT / "LICENSE", folder / "LICENSE")
    return folder


def set_version(file: Path, placeholder: str, text: str) -> None:
    """Writes the version into a manifest. Raises ValueError if it has no place for it."""
    content = file.read_text()
    if placeholder not in content:
        raise ValueError(f"{file} has no {placeholder}")
    file.write_text(content.replace(placeholder, text, 1))


def contracts() -> descriptor_pb2.FileDescriptorSet:
    """The contracts that stubs are made of."""
    made = without(
        published(contract.load().descriptors), "buf/validate/validate.proto", "google/api/annotations.proto"
    )
    for file in made.file:
        if file.name.startswith("florin/"):
            file.options.java_package = file.package
            file.options.java_multiple_files = True
            file.options.go_package = f"{GO_MODULE}/{file.package.replace('.', '/')};{_go_package(file.package)}"
    return made


def generate(output: Path, *flags: str, google: bool = False, services_only: bool = False, protoc: str = "") -> None:
    """Runs protoc with plug-ins over Florin's contracts, and over Google's that they use where a language lacks them.

    It is the protoc of gRPC's wheel, unless another program is given. Raises ChildProcessError when it refuses.
    """
    output.mkdir(parents=True, exist_ok=True)
    everything = contracts()
    descriptors = STAGE / "contracts.binpb"
    descriptors.write_bytes(everything.SerializeToString(deterministic=True))
    wanted = [
        file.name
        for file in everything.file
        if (file.name.startswith("florin/") or (google and file.name in _OF_GOOGLE))
        and (file.service or not services_only)
    ]
    arguments = [f"--descriptor_set_in={descriptors}", *flags, *wanted]
    if protoc:
        run([protoc, *arguments], cwd=output)
    elif bundled.main(["protoc", *arguments]) != 0:
        raise ChildProcessError("protoc refused the contracts; its message is above")


def write_tables(folder: Path) -> None:
    """Writes what a client knows of the contracts beside its stubs, a line for each.

    `methods.txt`: the path of a method that may be sent again, and the milliseconds that one try may take.
    `currencies.txt`: a currency of ISO 4217, and its decimal places.
    """
    methods = [
        f"/{method.full_name} {method.policy.deadline_ms}"
        for method in contract.load().methods
        if method.policy.idempotent and not method.is_streaming and _is_known_by_its_key(method)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "methods.txt").write_text("\n".join(sorted(methods)) + "\n")
    (folder / "currencies.txt").write_text("".join(f"{code} {EXPONENTS[code]}\n" for code in sorted(EXPONENTS)))


def services() -> list[tuple[contract.Service, str]]:
    """The public services with their names in a client. Raises KeyError when a new one has none in SERVICES."""
    return [(service, SERVICES[service.short_name]) for service in contract.load().services]


def camel(attribute: str) -> str:
    """ "payment_files" → "paymentFiles"."""
    first, *rest = attribute.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _is_known_by_its_key(method: contract.Method) -> bool:
    """Whether a copy of a request is known as one: it changes nothing, or a client gives it, or its items, a key."""
    if method.policy.rate == policy_pb2.RATE_READ or method.has_request_id:
        return True
    batch = method.request.fields_by_name.get("requests")
    return batch is not None and batch.message_type is not None and "request_id" in batch.message_type.fields_by_name


def _go_package(package: str) -> str:
    """ "florin.accounts.v1" → "accountsv1", as Go's users call packages."""
    return "".join(package.split(".")[1:])
