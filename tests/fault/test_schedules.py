"""Payments that fall due while transactions is killed: each is made once, whoever begins and whoever finishes it."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from florin.transactions.v1 import schedule_pb2
from florin.transactions.v1 import schedule_service_pb2 as pb
from tests.support import faults
from tests.support.mesh import Mesh
from tests.support.parts import wait_until

SCHEDULES = 120
KILLS = 4


def test_kills_at_the_time_of_many_runs_lose_and_double_none(mesh: Mesh, seed: int) -> None:
    """Both replicas die, one or both at a time, while 120 payments of one moment are made; all books agree."""
    chance = random.Random(seed)
    debit, credit = mesh.account(funds=100_00), mesh.account()
    at = datetime.now(UTC) + timedelta(seconds=25)

    def create(_: int) -> str:
        request = mesh.schedule(debit, credit, 1, at=at)
        name: str = mesh.call("ScheduleService.CreateSchedule", request).schedule.name
        return name

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(create, range(SCHEDULES)))
    wait_until(lambda: datetime.now(UTC) >= at, 30)
    killed: list[int] = []
    for _ in range(KILLS):
        time.sleep(chance.uniform(0, 0.4))
        replicas = faults.replicas(mesh, "transactions")
        killed += faults.kill(mesh, *chance.sample(replicas, chance.choice([1, len(replicas)])))
        mesh.wait_all_ready()
    assert len(killed) >= KILLS
    wait_until(lambda: not faults.doubted(mesh), 60)
    wait_until(lambda: mesh.balance(credit).posted.minor_units == SCHEDULES, 60)

    def completed(name: str) -> bool:
        (run,) = mesh.call("ScheduleService.ListScheduleRuns", pb.ListScheduleRunsRequest(schedule=name)).runs
        return run.state == schedule_pb2.SCHEDULE_RUN_STATE_COMPLETED

    wait_until(lambda: all(completed(name) for name in names), 60)
    assert mesh.balance(debit).posted.minor_units == 100_00 - SCHEDULES
    verdict = mesh.florin("verify")
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
