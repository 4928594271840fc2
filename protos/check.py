"""Judges the contracts with buf: formatted, in style, and breaking nobody who uses them; it changes nothing.

Run by `make check`. buf reads descriptors that protoc makes from the same sources as the stubs, so it needs no
network: its own way to google/api and buf/validate leads through a registry. What breaks is asked twice, against
main's contracts before this change and against the last release's.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

# The generator stands beside this file, which is run by its path.
from generate import PROTOS, ROOT, contracts_of, describe

CONTRACTS = "protos/*.proto"
"""For git, whose asterisk spans folders."""
OURS = ("--path", "florin")
"""Only these files of a descriptor set are judged; its imports are other people's."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """Contracts as they were."""

    commit: str
    name: str


def say(text: str) -> None:
    """One line for the person who reads the check."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def git(*arguments: str) -> str | None:
    """What git prints, or None when it finds nothing."""
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else None


def differs(commit: str) -> bool:
    """Whether a commit's contracts are others than those of the working tree."""
    if git("ls-files", "--others", "--exclude-standard", "--", CONTRACTS):
        return True
    return git("diff", "--name-only", commit, "--", CONTRACTS) is not None


def last_release() -> Baseline | None:
    """The newest version tag that this commit descends from."""
    tag = git("describe", "--tags", "--abbrev=0", "--match", "v[0-9]*")
    commit = git("rev-parse", f"{tag}^{{commit}}") if tag else None
    return Baseline(commit, f"the last release, {tag}") if commit else None


def main_before() -> Baseline | None:
    """Main's contracts before this change: where they are the same, what they were before their own last change."""
    main = next((ref for ref in ("origin/main", "main", "HEAD") if git("rev-parse", "--verify", "--quiet", ref)), None)
    fork = git("merge-base", "HEAD", main) if main else None
    if main is None or fork is None:
        return None
    versions = (git("log", "--format=%H", fork, "--", CONTRACTS) or "").split()
    for number, commit in enumerate(versions):
        if differs(commit):
            return Baseline(commit, f"{main}{' before its last change of them' if number else ''}, {shown(commit)}")
    return None


def first_contracts() -> Baseline | None:
    """The first contracts there were, which bind until there is a release; None where history is not all there."""
    if git("rev-parse", "--is-shallow-repository") != "false":
        return None
    commits = (git("log", "--format=%H", "--reverse", "--", CONTRACTS) or "").split()
    if not commits:
        return None
    return Baseline(commits[0], f"the first contracts, {shown(commits[0])} (there is no release yet)")


def shown(commit: str) -> str | None:
    """A commit as people read it."""
    return git("log", "-1", "--format=%h of %cs", commit)


def descriptors_of(commit: str, scratch: Path) -> Path:
    """The descriptor set of a commit's contracts."""
    folder = scratch / commit
    folder.mkdir(exist_ok=True)
    archive, output = folder / "protos.tar", folder / "descriptors.binpb"
    git("archive", f"--output={archive}", commit, "protos")
    shutil.unpack_archive(archive, folder, filter="data")
    describe(folder / "protos", output)
    return output


class Judge:
    """Runs buf and counts what it does not accept."""

    def __init__(self, buf: Path) -> None:
        self._buf = buf
        self.refusals = 0

    def ask(self, what: str, claim: str, *arguments: str) -> None:
        """Runs buf once, which holds if it finds nothing; its findings go to the standard output as they are."""
        command = [str(self._buf), *arguments]
        done = subprocess.run(command, cwd=ROOT, check=False)  # noqa: S603 - the program of the lock file
        self.refusals += done.returncode != 0
        say(f"{what:<9} {claim if done.returncode == 0 else f'refused, see above; wanted: {claim}'}")


def check(buf: Path) -> int:
    """All checks, each to its end; gives the number of refusals."""
    judge = Judge(buf)
    contracts = contracts_of(PROTOS)
    count = f"{len(contracts)} contracts"
    judge.ask("format", f"{count} are formatted", "format", "--diff", "--exit-code", "protos")
    with tempfile.TemporaryDirectory(prefix="florin-check-") as folder:
        scratch = Path(folder)
        present = scratch / "descriptors.binpb"
        # An import that nothing uses is a warning of protoc; buf cannot see it in a descriptor.
        describe(PROTOS, present, "--fatal_warnings")
        judge.ask("lint", f"{count} keep STANDARD and COMMENTS", "lint", str(present), *OURS)
        bound = last_release() or first_contracts()
        if bound is None:
            say(
                "breaking  nothing to compare with: git has no history here (in a shallow clone: git fetch --unshallow)"
            )
            return judge.refusals + 1
        before = main_before()
        if before is None:
            say("breaking  main never had other contracts than these")
        for baseline in filter(None, (before, bound)):
            against = str(descriptors_of(baseline.commit, scratch))
            claim = f"nothing breaks since {baseline.name}"
            judge.ask("breaking", claim, "breaking", str(present), *OURS, "--against", against)
    return judge.refusals


def main() -> int:
    """The command; the exit code is 1 when buf refuses something."""
    parser = argparse.ArgumentParser(prog="protos/check.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--buf", required=True, type=Path, help="the program buf")
    return 1 if check(parser.parse_args().buf) else 0


if __name__ == "__main__":
    raise SystemExit(main())
