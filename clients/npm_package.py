"""Builds the client for Node and browsers: an npm package of compiled modules with their types."""

from __future__ import annotations

import shutil
from pathlib import Path

from artifacts.contract import version
from clients import stage
from clients.toolchains import cached, need, run

_LOCK = stage.ROOT / "clients" / "typescript" / "package-lock.json"
_ADVICE = "Node 20 or newer with npm (Debian: apt-get install npm)"


def lay_out() -> Path:
    """The package with its stubs, compiled."""
    npm = need("npm", _ADVICE)
    folder = stage.lay_out("typescript")
    stage.set_version(folder / "package.json", '"version": "0.0.0"', f'"version": "{version()}"')

    def fill(place: Path) -> None:
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(_LOCK.with_name(name), place / name)
        run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], cwd=place)

    modules = cached("npm", _LOCK, fill) / "node_modules"
    (folder / "node_modules").symlink_to(modules)
    generated = folder / "src" / "gen"
    plugin = f"--plugin=protoc-gen-es={modules / '.bin' / 'protoc-gen-es'}"
    stage.generate(generated, plugin, f"--es_out={generated}", "--es_opt=target=ts,import_extension=js", google=True)
    (folder / "src" / "services.ts").write_text(_services())
    (folder / "src" / "tables.ts").write_text(_tables(folder))
    run([npm, "run", "--silent", "build"], cwd=folder)
    return folder


def build(output: Path) -> Path:
    """Builds the package; gives its file."""
    folder = lay_out()
    output.mkdir(parents=True, exist_ok=True)
    run(
        [need("npm", _ADVICE), "pack", "--silent", "--ignore-scripts", "--pack-destination", output.resolve()],
        cwd=folder,
    )
    return output / f"florin-client-{version()}.tgz"


def _services() -> str:
    """The module that gives a client each public service."""
    lines = [
        "// Made from the contracts; do not edit.",
        'import { type Client, createClient, type Transport } from "@connectrpc/connect";',
    ]
    fields, made = [], []
    for service, attribute in stage.services():
        file = service.file.removesuffix(".proto")
        lines.append(f'import {{ {service.short_name} }} from "./gen/{file}_pb.js";')
        name = stage.camel(attribute)
        fields.append(f"  /** {service.name} */\n  readonly {name}: Client<typeof {service.short_name}>;")
        made.append(f"    this.{name} = createClient({service.short_name}, transport);")
    lines += ["", "/** A client of each public service. */", "export class Services {", *fields]
    return "\n".join([*lines, "", "  constructor(transport: Transport) {", *made, "  }", "}", ""])


def _tables(folder: Path) -> str:
    """What methods.txt and currencies.txt say, as a module."""
    stage.write_tables(folder / "tables")
    text = "// Made from the contracts; do not edit.\n"
    for constant, file, comment in (
        ("METHODS", "methods.txt", "Methods that may be sent again, and the milliseconds that one try may take."),
        ("CURRENCIES", "currencies.txt", "Currencies of ISO 4217, and their decimal places."),
    ):
        rows = [line.split() for line in (folder / "tables" / file).read_text().splitlines()]
        entries = "".join(f'  "{name}": {number},\n' for name, number in rows)
        text += f"\n/** {comment} */\nexport const {constant}: Readonly<Record<string, number>> = {{\n{entries}}};\n"
    return text
