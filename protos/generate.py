"""Generates the Python stubs and the descriptor set from the contracts; it needs Python alone and changes nothing else.

Run by `make gen`. Writes `build/gen/florin/…` and `build/gen/buf/validate/…` (messages, services and their type
stubs) and `build/gen/descriptors.binpb` (every contract with its imports and comments).
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from pathlib import Path

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


def run_protoc(*arguments: str) -> None:
    """Runs the bundled protoc; exits when it refuses, its message being on stderr."""
    if protoc.main(["protoc", *arguments]) != 0:
        sys.exit("protoc refused the contracts; its message is above")


def generate() -> None:
    """Writes everything anew, so that a deleted contract leaves no stub behind."""
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    rules = OUTPUT / "validate.binpb"
    rules.write_bytes(rules_descriptor_set().SerializeToString())
    google_root = Path(next(iter(google.api.__path__))).parent.parent
    bundled = Path(grpc_tools.__file__).parent / "_proto"
    contracts = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto"))
    services = [name for name in contracts if name.endswith("_service.proto")]
    sources = [f"-I{PROTOS}", f"-I{google_root}", f"-I{bundled}", f"--descriptor_set_in={rules}"]
    # The type stubs' plug-ins stand beside the interpreter that runs this.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    run_protoc(*sources, f"--python_out={OUTPUT}", f"--mypy_out=quiet:{OUTPUT}", *contracts, RULES)
    run_protoc(*sources, f"--grpc_python_out={OUTPUT}", f"--mypy_grpc_out=quiet:{OUTPUT}", *services)
    run_protoc(
        *sources,
        f"--descriptor_set_out={OUTPUT / 'descriptors.binpb'}",
        "--include_imports",
        "--include_source_info",
        *contracts,
        # What a status may carry: the edge needs it to write details as JSON.
        "google/rpc/error_details.proto",
    )
    rules.unlink()
    print(f"{len(contracts)} contracts, {len(services)} services → {OUTPUT.relative_to(ROOT)}")


if __name__ == "__main__":
    generate()
