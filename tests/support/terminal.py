"""grpcurl, curl and `florin` run as programs, as a person at a terminal calls the mesh."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.mesh import Mesh

PUBLIC = Path(__file__).resolve().parents[2] / "build" / "gen" / "public.binpb"
ALL = PUBLIC.with_name("descriptors.binpb")
SECONDS = 30.0


def program(name: str) -> str:
    """Where a program is; missing ones fail, they do not skip."""
    found = shutil.which(name)
    if found is None:
        raise AssertionError(f"{name} is not on PATH; `make e2e-tools` builds grpcurl and says what else is missing")
    return found


@dataclass(frozen=True, slots=True)
class Said:
    """What a grpcurl call ended with."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The answer; the call must have succeeded."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def status(self) -> dict[str, Any]:
        """The refusal, as google.rpc.Status in JSON; the call must have been refused."""
        assert self.code != 0, self.out
        status: dict[str, Any] = json.loads(self.err)
        return status

    def detail(self, kind: str) -> dict[str, Any]:
        """The one detail of a type, by the end of its name."""
        (found,) = [detail for detail in self.status["details"] if detail["@type"].endswith(f".{kind}")]
        return dict(found)

    @property
    def refusal(self) -> tuple[int, str]:
        """Status code and reason."""
        return self.status["code"], self.detail("ErrorInfo")["reason"]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a curl call brought."""

    status: int
    content_type: str
    body: str

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)

    @property
    def refusal(self) -> tuple[int, str]:
        """Status and reason of a problem; anything but problem+json fails."""
        assert self.content_type == "application/problem+json", (self.content_type, self.body)
        problem = self.json
        assert problem["status"] == self.status
        assert problem["type"] == f"urn:florin:reason:{problem['reason']}"
        return self.status, problem["reason"]


@dataclass(slots=True)
class Terminal:
    """The programs, pointed at a mesh."""

    mesh: Mesh
    _tokens: dict[tuple[str, ...], str] = field(default_factory=dict)

    def token(self, *options: str) -> str:
        """What `florin token` prints; a teller's unless told otherwise."""
        wanted = options or ("--as", "teller")
        if wanted not in self._tokens:
            done = self.mesh.florin("token", *wanted)
            assert done.returncode == 0, done.stderr
            self._tokens[wanted] = done.stdout.strip()
        return self._tokens[wanted]

    def grpcurl_command(self, *words: str, token: str | None = None) -> list[str]:
        """grpcurl's command line: what is called comes last, options before it."""
        *options, verb = words
        bearer = self.token() if token is None else token
        head = [program("grpcurl"), "-cacert", str(self.mesh.state.ca), "-format-error"]
        if bearer:
            head += ["-H", f"authorization: Bearer {bearer}"]
        address = f"localhost:{self.mesh.port}"
        return [*head, *options, address, *verb.split(" ")]

    def grpcurl(self, *words: str, token: str | None = None, stdin: str = "") -> Said:
        """Runs grpcurl with a teller's token, another one, or none if it is empty."""
        command = self.grpcurl_command(*words, token=token)
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=SECONDS, check=False)
        return Said(done.returncode, done.stdout, done.stderr)

    def call(self, method: str, request: Mapping[str, Any] | str, *options: str, token: str | None = None) -> Said:
        """One call of a public method ("transactions.v1.TransferService/GetTransfer") by the published descriptors."""
        text = request if isinstance(request, str) else json.dumps(request)
        words = ("-protoset", str(PUBLIC), "-d", "@", *options, f"florin.{method}")
        return self.grpcurl(*words, token=token, stdin=text)

    def curl(
        self, path: str, *options: str, body: Mapping[str, Any] | str | None = None, token: str | None = None
    ) -> Fetched:
        """Runs curl with a teller's token, another one, or none if it is empty; a body makes it a POST."""
        (fetched,) = self.curl_many([path], *options, body=body, token=token)
        return fetched

    def curl_many(
        self, paths: Sequence[str], *options: str, body: Mapping[str, Any] | str | None = None, token: str | None = None
    ) -> list[Fetched]:
        """Runs one curl with the same request for several paths; more than one are sent at the same time."""
        command = [program("curl"), "--silent", "--show-error", "--cacert", str(self.mesh.state.ca), *options]
        bearer = self.token() if token is None else token
        if bearer:
            command += ["--header", f"authorization: Bearer {bearer}"]
        text = body if isinstance(body, str) or body is None else json.dumps(body)
        if text is not None:
            command += ["--header", "content-type: application/json", "--data-binary", "@-"]
        if len(paths) > 1:
            command += ["--parallel", "--parallel-immediate", "--parallel-max", str(len(paths))]
        with tempfile.TemporaryDirectory() as folder:
            command += ["--write-out", "%{filename_effective} %{http_code} %{content_type}\n"]
            for number, path in enumerate(paths):
                command += ["--output", f"{folder}/{number}", f"https://localhost:{self.mesh.port}{path}"]
            done = subprocess.run(
                command, input=text or "", capture_output=True, text=True, timeout=SECONDS, check=False
            )
            assert done.returncode == 0, done.stderr
            told = sorted(line.split(" ", 2) for line in done.stdout.splitlines())
            assert len(told) == len(paths), done.stdout
            return [Fetched(int(status), kind, Path(file).read_text()) for file, status, kind in told]
