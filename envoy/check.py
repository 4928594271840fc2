"""Has Envoy itself judge what generate.py writes, as a small and as a large deployment call it; it changes nothing.

Run by `make check`. Envoy reads certificates while it validates, so they are made in a folder that goes away again.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from local import binaries, certs, issuer
from local.state import SERVICES, State, open_state

GENERATE = Path(__file__).resolve().with_name("generate.py")


def deployments(state: State) -> dict[str, list[str]]:
    """The arguments of generate.py for each kind of deployment."""
    certificate, key = map(str, state.certificate("edge"))
    files = ["--tls-cert", certificate, "--tls-key", key, "--ca", str(state.ca)]
    files += ["--client-cert", certificate, "--client-key", key]
    small = [*files, "--listen", "127.0.0.1:8443", "--admin", "127.0.0.1:9901"]
    small += ["--issuer", "http://127.0.0.1:9902", "--issuer-jwks", "http://127.0.0.1:9902/jwks.json"]
    for number, service in enumerate(SERVICES, 5001):
        small += ["--upstream", f"{service}=127.0.0.1:{number},127.0.0.1:{number + 10}"]
    large = [*files, "--listen", "0.0.0.0:8443", "--admin", "127.0.0.1:9901"]
    large += ["--issuer", "https://issuer.example", "--issuer-jwks", "https://issuer.example/keys"]
    large += ["--issuer-ca", str(state.ca), "--otlp", "collector:4317", "--trace-percent", "1"]
    large += ["--cors-origin", "https://app.example", "--rate-total", "5000", "--open-reflection"]
    for service in SERVICES:
        large += ["--upstream", f"{service}={service}:443"]
    kept = [*files, "--listen", "0.0.0.0:8443", "--admin", "127.0.0.1:9901", "--stats", "0.0.0.0:9902"]
    kept += ["--issuer", "https://issuer.example", "--issuer-jwks-file", str(state.root / "jwks.json")]
    for service in SERVICES:
        kept += ["--upstream", f"{service}={service}:50051"]
    return {
        "numeric addresses, a plain issuer": small,
        "names, an issuer over TLS, traces, cross-origin": large,
        "an issuer's keys from a file, numbers for Prometheus": kept,
    }


def main() -> int:
    """The command; the exit code is 1 when Envoy refuses a configuration."""
    envoy = binaries.find().envoy
    refusals = 0
    with tempfile.TemporaryDirectory(prefix="florin-check-") as folder:
        # A state folder must be traversable, for PostgreSQL's sake.
        Path(folder).chmod(0o755)
        state = open_state(Path(folder) / "state")
        certs.ensure(state)
        issuer.ensure(state)
        for what, arguments in deployments(state).items():
            configuration = Path(folder) / "envoy.json"
            write = [sys.executable, str(GENERATE), "--output", str(configuration), *arguments]
            judge = [str(envoy), "--mode", "validate", "-c", str(configuration), "--log-level", "critical"]
            written = subprocess.run(write, check=False).returncode == 0  # noqa: S603 - fixed words
            accepted = written and subprocess.run(judge, check=False, stdout=sys.stderr).returncode == 0  # noqa: S603
            refusals += not accepted
            print(f"edge      {'Envoy accepts it' if accepted else 'refused, see above'} ({what})", flush=True)
    return 1 if refusals else 0


if __name__ == "__main__":
    raise SystemExit(main())
