"""Whether this container's service is ready, for platforms that run a command to know; standard library alone.

`python -m meshkit.probe` asks /readyz of the port in `<SERVICE>_HEALTH_PORT`, the service being FLORIN_SERVICE. The
exit code is 0 for ready and 1 for anything else, which it says. It must not import what a service imports: it is run
every few seconds.
"""

from __future__ import annotations

import http.client
import os
import sys

_TIMEOUT_SECONDS = 3


def main() -> int:
    """The command."""
    service = os.environ.get("FLORIN_SERVICE", "")
    port = os.environ.get(f"{service.upper()}_HEALTH_PORT", "")
    if not port.isdigit():
        print(f"FLORIN_SERVICE is {service!r}, and {service.upper()}_HEALTH_PORT names no port", file=sys.stderr)  # noqa: T201
        return 1
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        print(answer.read().decode(errors="replace"))  # noqa: T201
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer: {error!r}")  # noqa: T201
        return 1
    finally:
        connection.close()
    return 0 if answer.status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main())
