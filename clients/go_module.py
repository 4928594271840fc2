"""Builds the Go client: a module as the files that Go's proxy protocol reads, so that no repository has its stubs."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from artifacts.contract import version
from clients import stage
from clients.stage import GO_MODULE
from clients.toolchains import cached, need, run

TOOLS = stage.ROOT / "clients" / "tools"
_ADVICE = "Go 1.26 or newer (go.dev/doc/install)"
_PROGRAMS = ("google.golang.org/protobuf/cmd/protoc-gen-go", "google.golang.org/grpc/cmd/protoc-gen-go-grpc")
_UNCHANGED = (1980, 1, 1, 0, 0, 0)


def lay_out() -> Path:
    """The module with its stubs."""
    go = need("go", _ADVICE)
    folder = stage.lay_out("go")

    def fill(place: Path) -> None:
        for program in _PROGRAMS:
            run([go, "build", "-trimpath", "-o", place / program.rsplit("/", 1)[1], program], cwd=TOOLS)

    tools = cached("go-tools", TOOLS / "go.sum", fill)
    plugins = [f"--plugin={name}={tools / name}" for name in ("protoc-gen-go", "protoc-gen-go-grpc")]
    out = [f"--go_out={folder}", f"--go_opt=module={GO_MODULE}"]
    stage.generate(folder, *plugins, *out)
    out = [f"--go-grpc_out={folder}", f"--go-grpc_opt=module={GO_MODULE}"]
    stage.generate(folder, *plugins, *out, services_only=True)
    stage.write_tables(folder)
    (folder / "services.go").write_text(_services())
    run([go, "fmt", "./..."], cwd=folder)
    return folder


def build(output: Path) -> Path:
    """Builds the module; gives the folder that a GOPROXY may name."""
    folder = lay_out()
    run([need("go", _ADVICE), "vet", "./..."], cwd=folder)
    release = f"v{version()}"
    place = output / "go" / GO_MODULE / "@v"
    place.mkdir(parents=True, exist_ok=True)
    (place / "list").write_text(f"{release}\n")
    (place / f"{release}.info").write_text(json.dumps({"Version": release, "Time": "2026-01-01T00:00:00Z"}) + "\n")
    (place / f"{release}.mod").write_bytes((folder / "go.mod").read_bytes())
    with zipfile.ZipFile(place / f"{release}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = f"{GO_MODULE}@{release}/{file.relative_to(folder).as_posix()}"
            entry = zipfile.ZipInfo(name, _UNCHANGED)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
    return output / "go"


def _services() -> str:
    """The file that gives a client each public service."""
    found = sorted((attribute, service) for service, attribute in stage.services())
    packages = sorted({service.name.rpartition(".")[0] for _, service in found})
    lines = [
        "// Made from the contracts; do not edit.",
        "package client",
        "",
        "import (",
        '"google.golang.org/grpc"',
        "",
    ]
    lines += [f'{_alias(package)} "{GO_MODULE}/{package.replace(".", "/")}"' for package in packages]
    lines += [")", "", "// Services are the generated stubs of all public services.", "type Services struct {"]
    for attribute, service in found:
        package, _, name = service.name.rpartition(".")
        lines.append(f"{_exported(attribute)} {_alias(package)}.{name}Client")
    lines += ["}", "", "func newServices(connection grpc.ClientConnInterface) Services {", "return Services{"]
    for attribute, service in found:
        package, _, name = service.name.rpartition(".")
        lines.append(f"{_exported(attribute)}: {_alias(package)}.New{name}Client(connection),")
    return "\n".join([*lines, "}", "}", ""])


def _alias(package: str) -> str:
    return "".join(package.split(".")[1:])


def _exported(attribute: str) -> str:
    """ "payment_files" → "PaymentFiles"."""
    return "".join(word.capitalize() for word in attribute.split("_"))
