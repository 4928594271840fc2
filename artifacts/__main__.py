"""Writes what is made of the contracts alone into a folder: `python -m artifacts --output dist`.

The same contracts always give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from artifacts import contract, openapi, pages, reference, service_config, vectors
from artifacts.published import published

PERMISSIONS = Path(__file__).resolve().parents[1] / "tests" / "contract" / "golden" / "permissions.md"


def write(folder: Path) -> None:
    """Writes all of it; what was there under the same names is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    present = contract.load()
    descriptors = published(present.descriptors)
    (folder / "descriptors.binpb").write_bytes(descriptors.SerializeToString(deterministic=True))
    _write_json(folder / "openapi.json", openapi.document(present))
    _write_json(folder / "service_config.json", service_config.service_config(present))
    shutil.copyfile(PERMISSIONS, folder / "permissions.md")
    for name in ("reference", "vectors"):
        shutil.rmtree(folder / name, ignore_errors=True)
    vectors.write(folder / "vectors")
    (folder / "reference").mkdir()
    shown = reference.pages(present)
    for page in shown:
        (folder / "reference" / f"{page.name}.md").write_text(pages.markdown(page))
        (folder / "reference" / f"{page.name}.html").write_text(pages.html(page, shown))


def _write_json(file: Path, document: Any) -> None:
    file.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m artifacts", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", required=True, type=Path, help="the folder")
    folder = parser.parse_args().output
    write(folder)
    sys.stdout.write(f"{sum(path.is_file() for path in folder.rglob('*'))} files in {folder}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
