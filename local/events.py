"""`florin events`: events told again, and those that a consumer gave up; acts as the broker's operator of this mesh."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from nats.js import JetStreamContext

from local import binaries, nats
from local.postgres import Postgres
from local.services import Replica, Surroundings
from local.state import SERVICES, MeshError, State
from meshkit import dead_letters
from meshkit.dead_letters import DeadLetter


def replay(state: State, service: str, start: str, end: str, again_for: str | None) -> str:
    """Has a service publish its events of a time range once more. Raises MeshError with what it says when it cannot."""
    if service not in SERVICES:
        raise MeshError(f"There is no service {service}; the services are {', '.join(SERVICES)}.")
    if again_for is not None and again_for not in SERVICES:
        raise MeshError(f"There is no consumer {again_for}; the consumers are {', '.join(SERVICES)}.")
    description = state.read_description()
    ports = description["ports"]
    # A process of its own, beside the replicas: it listens nowhere.
    replica = Replica(service, 1, 0, 0)
    around = Surroundings(state, Postgres(state, binaries.find()), [], ports["nats"], ports["jwks"], {})
    command = [sys.executable, "-P", "-m", service, "replay", start, end, *([again_for] if again_for else [])]
    done = subprocess.run(
        command, env={**os.environ, **around.environment(replica)}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise MeshError((done.stderr.strip().splitlines() or [f"{service} ended with {done.returncode}"])[-1])
    return done.stdout.strip().splitlines()[-1]


async def dead(state: State) -> list[DeadLetter]:
    """The dead letters of the mesh, the oldest first."""
    async with _operator(state) as jetstream:
        return [letter async for letter in dead_letters.waiting(jetstream)]


async def redrive(state: State, number: int | None) -> int:
    """Sends a dead letter, or all, to their consumers once more; gives their count. Raises MeshError for none."""
    return await _each(state, number, dead_letters.redrive)


async def drop(state: State, number: int) -> int:
    """Takes a dead letter away for good. Raises MeshError when there is none of that number."""
    return await _each(state, number, dead_letters.drop)


async def _each(
    state: State, number: int | None, act: Callable[[JetStreamContext, DeadLetter], Awaitable[None]]
) -> int:
    async with _operator(state) as jetstream:
        # Taken before the first is sent: one that fails again at once comes back under a new number.
        letters = [letter async for letter in dead_letters.waiting(jetstream)]
        chosen = [letter for letter in letters if number is None or letter.number == number]
        if number is not None and not chosen:
            raise MeshError(f"There is no dead letter {number}; `florin events dead` lists them.")
        for letter in chosen:
            await act(jetstream, letter)
        return len(chosen)


def _operator(state: State) -> AbstractAsyncContextManager[JetStreamContext]:
    return nats.operator(state, state.read_description()["ports"]["nats"])
