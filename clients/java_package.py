"""Builds the Java client: a jar of the stubs and the layer above them, by Maven."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

from artifacts.contract import version
from clients import stage
from clients.toolchains import cache, cached, need, run

_ADVICE = "Maven and Java 17 or newer (Debian: apt-get install maven openjdk-17-jdk-headless)"
_PLATFORMS = {
    ("Linux", "x86_64"): "linux-x86_64",
    ("Linux", "aarch64"): "linux-aarch_64",
    ("Darwin", "x86_64"): "osx-x86_64",
    ("Darwin", "arm64"): "osx-aarch_64",
}
_POM = stage.ROOT / "clients" / "java" / "pom.xml"


def maven(*words: str) -> list[str]:
    """Maven's command line; what it fetches is kept in the cache."""
    return [need("mvn", _ADVICE), "--batch-mode", "--quiet", f"-Dmaven.repo.local={cache() / 'maven'}", *words]


def lay_out() -> Path:
    """The project with its stubs, not compiled."""
    folder = stage.lay_out("java")
    stage.set_version(folder / "pom.xml", "<version>0.0.0</version>", f"<version>{version()}</version>")

    def fill(place: Path) -> None:
        of_machine = _PLATFORMS[platform.system(), platform.machine()]
        words = ("dependency:copy", f"-Dplatform={of_machine}", f"-DoutputDirectory={place}")
        run(maven("-f", str(_POM), *words), cwd=place)
        for program in ("protoc", "protoc-gen-grpc-java"):
            (place / program).chmod(0o755)

    tools = cached("java-tools", _POM, fill)
    sources = folder / "src" / "main" / "java"
    # The protoc of gRPC's wheel makes no Java; this one comes as an artifact like the rest.
    protoc = str(tools / "protoc")
    stage.generate(sources, f"--java_out={sources}", protoc=protoc)
    plugin = f"--plugin=protoc-gen-grpc-java={tools / 'protoc-gen-grpc-java'}"
    stage.generate(sources, plugin, f"--grpc-java_out=@generated=omit:{sources}", services_only=True, protoc=protoc)
    (sources / "florin" / "client" / "Services.java").write_text(_services())
    stage.write_tables(folder / "src" / "main" / "resources" / "florin" / "client")
    return folder


def build(output: Path) -> Path:
    """Builds the jar, without its tests, and its pom; gives the jar's file."""
    folder = lay_out()
    run(maven("-DskipTests", "package"), cwd=folder)
    output.mkdir(parents=True, exist_ok=True)
    jar = output / f"florin-client-{version()}.jar"
    shutil.copyfile(folder / "target" / jar.name, jar)
    shutil.copyfile(folder / "pom.xml", jar.with_suffix(".pom"))
    return jar


def _services() -> str:
    """The class that gives a client each public service."""
    lines = ["package florin.client;", "", "import io.grpc.Channel;", ""]
    lines += [
        "/** A blocking stub of each public service. Made from the contracts; do not edit. */",
        "abstract class Services {",
    ]
    made = []
    for service, attribute in stage.services():
        package, _, name = service.name.rpartition(".")
        field = stage.camel(attribute)
        lines.append(f"  /** {service.name}. */")
        lines.append(f"  public final {package}.{name}Grpc.{name}BlockingStub {field};")
        made.append(f"    {field} = {package}.{name}Grpc.newBlockingStub(channel);")
    return "\n".join([*lines, "", "  Services(Channel channel) {", *made, "  }", "}", ""])
