"""Builds the Python client: a wheel of the stubs and the layer above them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from artifacts.contract import Service, version
from clients import stage
from clients.toolchains import run


def build(output: Path) -> Path:
    """Builds the wheel; gives its file."""
    folder = stage.lay_out("python")
    stage.set_version(folder / "pyproject.toml", 'version = "0.0.0"', f'version = "{version()}"')
    sources = folder / "src"
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    stage.generate(sources, f"--python_out={sources}", f"--mypy_out=quiet:{sources}")
    grpc = (f"--grpc_python_out={sources}", f"--mypy_grpc_out=quiet:{sources}")
    stage.generate(sources, *grpc, services_only=True)
    (sources / "florin_client" / "services.py").write_text(_services())
    stage.write_tables(sources / "florin_client")
    for package in (sources / "florin").rglob("v1"):
        (package / "py.typed").touch()
    output.mkdir(parents=True, exist_ok=True)
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", output.resolve()], cwd=folder)
    return output / f"florin_client-{version()}-py3-none-any.whl"


_HEAD = '''"""The public services as attributes of a client, each the generated stub on its channel."""

from __future__ import annotations

from functools import cached_property

import grpc

{imports}
'''
_CLASS = '''

class {name}:
    """What can be called: a method takes its request and, if asked, the seconds that one try may take."""

    def __init__(self, channel: {channel}) -> None:
        self._channel = channel
'''
_PROPERTY = '''
    @cached_property
    def {attribute}(self) -> {module}.{service}{stub}:
        """{full_name}."""
        return {module}.{service}Stub(self._channel)
'''


def _services() -> str:
    """The module that has the stubs of all public services, for both kinds of client."""
    found = stage.services()
    imports = sorted(f"from {service.name.rpartition('.')[0]} import {_module(service)}" for service, _ in found)
    text = _HEAD.format(imports="\n".join(imports))
    for name, channel, stub in (
        ("Services", "grpc.Channel", "Stub"),
        ("AsyncServices", "grpc.aio.Channel", "AsyncStub"),
    ):
        text += _CLASS.format(name=name, channel=channel)
        for service, attribute in found:
            text += _PROPERTY.format(
                attribute=attribute,
                module=_module(service),
                service=service.short_name,
                stub=stub,
                full_name=service.name,
            )
    return text


def _module(service: Service) -> str:
    """The module of a service's stub: "transfer_service_pb2_grpc"."""
    return service.file.removesuffix(".proto").rsplit("/", 1)[1] + "_pb2_grpc"
