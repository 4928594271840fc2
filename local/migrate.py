"""Brings the four schemas up; run as a process of its own, so that the supervisor stays small."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sqlalchemy.engine import make_url

from meshkit import migrations


def main() -> None:
    """`python -m local.migrate URLS PASSWORD_FILES`, both JSON by service; passwords come from files."""
    urls, files = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    for service, url in urls.items():
        password = Path(files[service]).read_text()
        migrations.upgrade(make_url(url).set(password=password), service, f"{service}_runtime")


if __name__ == "__main__":
    main()
