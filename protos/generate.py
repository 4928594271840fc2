"""Generates the Python stubs and the descriptor set from the contracts; it needs Python alone and changes nothing else.

Run by `make gen`. Writes `build/gen/florin/…` and `build/gen/buf/validate/…` (messages, services and their type
stubs), `build/gen/descriptors.binpb` (every contract with its imports and comments) and `build/gen/public.binpb`
(what is published: without internal services and without Florin's own options).
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import google.api
import grpc_tools
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_tools import protoc
from protovalidate._gen.buf.validate import validate_pb

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
OUTPUT = ROOT / "build" / "gen"
RULES = "buf/validate/validate.proto"


def rules_descriptor_set() -> descriptor_pb2.FileDescriptorSet:
    """The rules language of protovalidate with its imports: its wheel ships it compiled, not as a source file."""
    rules = descriptor_pb2.FileDescriptorProto.FromString(validate_pb.FieldRules.desc().file.proto.to_binary())
    imports = []
    for name in rules.dependency:
        # Importing the stub is what puts a file into the runtime's pool.
        importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
        imported = descriptor_pb2.FileDescriptorProto()
        descriptor_pool.Default().FindFileByName(name).CopyToProto(imported)
        imports.append(imported)
    return descriptor_pb2.FileDescriptorSet(file=[*imports, rules])


def public_descriptors(contracts: descriptor_pb2.FileDescriptorSet) -> descriptor_pb2.FileDescriptorSet:
    """The published part of the contracts: no internal service, no policy option, nothing that only those import."""
    from florin.common.v1 import policy_pb2  # generated a moment ago

    files = {
        file.name: descriptor_pb2.FileDescriptorProto.FromString(file.SerializeToString()) for file in contracts.file
    }
    policy_file = policy_pb2.DESCRIPTOR.name
    for file in files.values():
        _keep_public_services(file, policy_pb2.policy)
        for message in file.message_type:
            message.options.ClearExtension(policy_pb2.event)
        if policy_file in file.dependency:
            file.dependency.remove(policy_file)
        # Comments are found by positions, which moved where something was taken out; the full set keeps them.
        file.ClearField("source_code_info")
    roots = [name for name in files if name.endswith("/events.proto") or files[name].service]
    needed: set[str] = set()
    pending = [*roots, "google/rpc/error_details.proto", "florin/common/v1/errors.proto"]
    while pending:
        name = pending.pop()
        if name not in needed:
            needed.add(name)
            pending.extend(files[name].dependency)
    return descriptor_pb2.FileDescriptorSet(file=[file for name, file in files.items() if name in needed])


def _keep_public_services(file: descriptor_pb2.FileDescriptorProto, policy: Any) -> None:
    public = [service for service in file.service if any(m.options.Extensions[policy].scopes for m in service.method)]
    kept = [descriptor_pb2.ServiceDescriptorProto.FromString(service.SerializeToString()) for service in public]
    for service in kept:
        for method in service.method:
            method.options.ClearExtension(policy)
    del file.service[:]
    file.service.extend(kept)


def run_protoc(*arguments: str) -> None:
    """Runs the bundled protoc; exits when it refuses, its message being on stderr."""
    if protoc.main(["protoc", *arguments]) != 0:
        sys.exit("protoc refused the contracts; its message is above")


def contracts_of(protos: Path) -> list[str]:
    """The contracts in a folder, by the names that imports use."""
    return sorted(path.relative_to(protos).as_posix() for path in protos.rglob("*.proto"))


def sources(protos: Path, scratch: Path) -> list[str]:
    """Tells protoc where contracts and their imports are; the rules' descriptor is written into the scratch folder."""
    rules = scratch / "validate.binpb"
    rules.write_bytes(rules_descriptor_set().SerializeToString())
    google_root = Path(next(iter(google.api.__path__))).parent.parent
    bundled = Path(grpc_tools.__file__).parent / "_proto"
    return [f"-I{protos}", f"-I{google_root}", f"-I{bundled}", f"--descriptor_set_in={rules}"]


def describe(protos: Path, output: Path, *flags: str) -> None:
    """Writes the descriptor set of a folder of contracts, with imports and comments."""
    with tempfile.TemporaryDirectory() as scratch:
        run_protoc(
            *sources(protos, Path(scratch)),
            *flags,
            f"--descriptor_set_out={output}",
            "--include_imports",
            "--include_source_info",
            *contracts_of(protos),
            # What a status may carry: the edge needs it to write details as JSON.
            "google/rpc/error_details.proto",
        )


def generate() -> None:
    """Writes everything anew, so that a deleted contract leaves no stub behind."""
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    contracts = contracts_of(PROTOS)
    services = [name for name in contracts if name.endswith("_service.proto")]
    # The type stubs' plug-ins stand beside the interpreter that runs this.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    with tempfile.TemporaryDirectory() as scratch:
        found = sources(PROTOS, Path(scratch))
        run_protoc(*found, f"--python_out={OUTPUT}", f"--mypy_out=quiet:{OUTPUT}", *contracts, RULES)
        run_protoc(*found, f"--grpc_python_out={OUTPUT}", f"--mypy_grpc_out=quiet:{OUTPUT}", *services)
    describe(PROTOS, OUTPUT / "descriptors.binpb")
    sys.path.insert(0, str(OUTPUT))
    contracts_set = descriptor_pb2.FileDescriptorSet.FromString((OUTPUT / "descriptors.binpb").read_bytes())
    (OUTPUT / "public.binpb").write_bytes(public_descriptors(contracts_set).SerializeToString())
    print(f"{len(contracts)} contracts, {len(services)} services → {OUTPUT.relative_to(ROOT)}")


if __name__ == "__main__":
    generate()
