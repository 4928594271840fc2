"""The measurement, in its order: start, bank, warm start, idle, the loads, the floors; it must not print."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import bank, floors, meters, webhooks
from bench import mesh as meshes
from bench.calls import CURRENCY
from bench.load import Generators, Order, Tally, World, generators
from bench.mesh import Mesh
from florin.common.v1 import money_pb2
from florin.transactions.v1 import transfer_pb2, transfer_service_pb2
from local import client, issuer
from local.demo_bank import Party
from local.state import State, open_state

_QUIET_SECONDS = 120.0
_WEBHOOK_SECONDS = 10.0
_SUBJECTS = 16
"""Tellers who pay: the edge lets each make 2,000 writes a second."""
GENERATOR = "generator"
"""What the load generators' CPU stands under."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    accounts: int = 200
    seconds: float = 10.0
    warm_seconds: float = 2.0
    idle_seconds: float = 5.0
    callers: tuple[int, ...] = (1, 16, 64, 256)
    in_flight: tuple[int, ...] = (64, 1000)
    """Transfers that are kept under way on one stream."""
    pgbench_clients: tuple[int, ...] = (1, 16, 64)
    pgbench_seconds: int = 8
    webhook_seconds: float = 10.0
    generators: int = 1


QUICK = Plan(
    accounts=40,
    seconds=3.0,
    warm_seconds=1.0,
    idle_seconds=2.0,
    callers=(1, 64),
    in_flight=(1000,),
    pgbench_clients=(16,),
    pgbench_seconds=3,
    webhook_seconds=3.0,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One load, what came of it and what it cost."""

    case: str
    callers: int
    unit: str
    tally: Tally
    cpu_ms: Mapping[str, float]
    """CPU milliseconds an item, by process: from the first call until the last event was consumed."""
    generator_cores: float
    others_cores: float
    """Cores that were busy with what is not ours: how noisy the machine was."""
    behind_seconds: float = 0.0
    """After the last answer, until every event of the load was consumed."""


@dataclass(slots=True)
class Report:
    """All that was measured."""

    plan: Plan
    rows: list[Row] = field(default_factory=list)
    fresh_ready_seconds: float = 0.0
    warm_ready_seconds: float = 0.0
    warm_first_seconds: float = 0.0
    start_cpu_seconds: Mapping[str, float] = field(default_factory=dict)
    """CPU that the warm start took, by process."""
    idle_cores: Mapping[str, float] = field(default_factory=dict)
    idle_mb: Mapping[str, float] = field(default_factory=dict)
    loaded_mb: Mapping[str, float] = field(default_factory=dict)
    file_system: str = ""
    """Of the state folder: commits on one in memory cost nothing, and say nothing."""
    missing: list[str] = field(default_factory=list)
    """What could not be measured here, and why."""


async def measure(plan: Plan, folder: Path | None, tell: Tell) -> Report:
    """Measures everything in a folder of its own. Raises BenchError, MeshError and Refused."""
    report = Report(plan)
    if not meters.AVAILABLE:
        report.missing.append("CPU and memory: this system has no /proc/PID/smaps_rollup")
    with tempfile.TemporaryDirectory(prefix="florin-bench-", dir=folder) as made:
        Path(made).chmod(0o755)
        state = open_state(Path(made) / "state")
        report.file_system = meters.file_system(state.root)
        tell(f"the state is on {report.file_system or 'a file system of unknown kind'}")
        parties = bank.parties(plan.accounts)
        tell("florin up in a fresh folder")
        async with meshes.running(state) as mesh:
            report.fresh_ready_seconds = mesh.ready_seconds
            tell(f"ready after {mesh.ready_seconds:.1f} s; opening {plan.accounts} accounts")
            async with client.connect(state, f"localhost:{mesh.port}") as edge:
                await bank.open_bank(edge, parties)
            await mesh.until_quiet(_QUIET_SECONDS)
        tell("florin up again, in the same folder")
        async with meshes.running(state) as mesh:
            await _warm_start(report, mesh, parties, tell)
            await _loads(report, mesh, parties, tell)
    return report


async def _warm_start(report: Report, mesh: Mesh, parties: tuple[Party, ...], tell: Tell) -> None:
    """The first transfer, then the mesh while it has nothing to do."""
    report.warm_ready_seconds = mesh.ready_seconds
    async with client.connect(mesh.state, f"localhost:{mesh.port}") as edge:
        teller = edge.session("teller", tenant=bank.TENANT)
        request = transfer_service_pb2.CreateTransferRequest(
            debit_account=parties[0].account,
            credit_account=parties[1].account,
            amount=money_pb2.Money(currency_code=CURRENCY, minor_units=1),
            creditor_name=parties[1].name,
            request_id="bench-first",
        )
        answer = await teller.call(teller.transfers.CreateTransfer, request)
    if answer.transfer.state != transfer_pb2.TRANSFER_STATE_COMPLETED:
        raise meshes.BenchError(f"the first transfer is {answer.transfer}")
    report.warm_first_seconds = time.monotonic() - mesh.started
    report.start_cpu_seconds = meters.read(mesh.roots()).groups
    tell(f"the first transfer is completed {report.warm_first_seconds:.1f} s after florin up; now nothing is done")
    await mesh.until_quiet(_QUIET_SECONDS)
    before = meters.read(mesh.roots())
    await asyncio.sleep(report.plan.idle_seconds)
    spent = meters.read(mesh.roots()).since(before)
    report.idle_cores = {name: used / spent.seconds for name, used in spent.groups.items()}
    report.idle_mb = meters.memory_mb(mesh.roots())


async def _loads(report: Report, mesh: Mesh, parties: tuple[Party, ...], tell: Tell) -> None:
    plan = report.plan
    where = world(mesh.state, f"localhost:{mesh.port}", parties)
    async with generators(where, plan.generators) as made:
        bench = _Bench(report, mesh, made, tell)
        for callers in plan.callers:
            await bench.row("transfers, uniform", "transfers", bench.order("transfer", callers))
        await bench.row("transfers, one payer", "transfers", bench.order("hot", 64))
        rate = max(report.rows[-2].tally.per_second / 2, 1.0)
        await bench.row(f"open loop, {rate:.0f} a second", "transfers", bench.order("transfer", 64, rate=rate))
        await bench.row("batches of 500", "transfers", bench.order("batch", 2, batch=500))
        for in_flight in plan.in_flight:
            await bench.row("one stream", "transfers", bench.order("stream", in_flight))
        await bench.row("balance reads", "reads", bench.order("balance", 64))
        report.loaded_mb = meters.memory_mb(mesh.roots())
        await _webhooks(bench)
    await _empty_calls(report, mesh, parties, tell)
    await _pgbench(report, mesh, tell)


@dataclass(frozen=True, slots=True)
class _Bench:
    """What a row needs."""

    report: Report
    mesh: Mesh
    generators: Generators
    tell: Tell

    def order(self, kind: str, callers: int, *, rate: float = 0.0, batch: int = 1) -> Order:
        """A load as long as the plan says."""
        plan = self.report.plan
        return Order(kind, callers, plan.seconds, plan.warm_seconds, rate, batch)

    async def row(self, case: str, unit: str, order: Order) -> None:
        """One load on a mesh that has nothing else to do, until it has nothing to do again."""
        self.tell(f"{case}, {order.callers} at once")
        async with _counted(self.report, {**self.mesh.roots(), **self.loaders()}, case, unit, order.callers) as made:
            made.tally = await self.generators.run(order)
            made.behind_seconds = await self.mesh.until_quiet(_QUIET_SECONDS)

    def loaders(self) -> dict[str, int]:
        """The load generators' process ids by name."""
        return {f"{GENERATOR}-{number}": pid for number, pid in enumerate(self.generators.pids)}


@dataclass(slots=True)
class _Made:
    """What a counted block came to."""

    tally: Tally = field(default_factory=Tally)
    behind_seconds: float = 0.0


@asynccontextmanager
async def _counted(
    report: Report, roots: Mapping[str, int], case: str, unit: str, callers: int
) -> AsyncIterator[_Made]:
    """Counts the CPU of a block by process, and adds its row."""
    made = _Made()
    before = meters.read(roots)
    yield made
    spent = meters.read(roots).since(before)
    ours = {name: used for name, used in spent.groups.items() if not name.startswith(GENERATOR)}
    loaders = sum(spent.groups.values()) - sum(ours.values())
    items = max(made.tally.items, 1)
    report.rows.append(
        Row(
            case=case,
            callers=callers,
            unit=unit,
            tally=made.tally,
            cpu_ms={**{name: used * 1000 / items for name, used in ours.items()}, GENERATOR: loaders * 1000 / items},
            generator_cores=loaders / spent.seconds if spent.seconds else 0.0,
            others_cores=spent.others_cores(),
            behind_seconds=made.behind_seconds,
        )
    )


async def _webhooks(bench: _Bench) -> None:
    """A few payments a second, so that what is measured is the way of an event and not a queue."""
    plan = bench.report.plan
    order = Order("transfer", 16, plan.webhook_seconds, rate=20.0)
    bench.tell("from commit to webhook, 20 payments a second")
    async with client.connect(bench.mesh.state, f"localhost:{bench.mesh.port}") as edge:
        operator = edge.session("operator", tenant=bank.TENANT)
        async with webhooks.receiving(operator) as receiver:
            roots = {**bench.mesh.roots(), **bench.loaders()}
            async with _counted(bench.report, roots, "commit to webhook", "webhooks", 16) as made:
                sent = await bench.generators.run(order)
                await receiver.until(sent.items, _WEBHOOK_SECONDS)
                made.behind_seconds = await bench.mesh.until_quiet(_QUIET_SECONDS)
                late = list(receiver.late_us.values())
                made.tally = Tally(len(late), len(late), plan.webhook_seconds, late, sent.refused)
                if sent.items > len(late):
                    made.tally.refused[f"no webhook within {_WEBHOOK_SECONDS:.0f} s"] = sent.items - len(late)


async def _empty_calls(report: Report, mesh: Mesh, parties: tuple[Party, ...], tell: Tell) -> None:
    """An empty unary call through an edge of the same configuration."""
    plan = report.plan
    async with (
        floors.empty_edge(mesh) as empty,
        generators(world(mesh.state, empty.target, parties), plan.generators) as made,
    ):
        roots = {
            **mesh.roots(),
            **empty.roots,
            **{f"{GENERATOR}-{number}": pid for number, pid in enumerate(made.pids)},
        }
        for callers in sorted({1, 64}.intersection(plan.callers)):
            tell(f"floor: empty calls through the edge, {callers} at once")
            async with _counted(report, roots, "floor: empty calls", "calls", callers) as counted:
                counted.tally = await made.run(Order("empty", callers, plan.seconds, plan.warm_seconds))


async def _pgbench(report: Report, mesh: Mesh, tell: Tell) -> None:
    """TPC-B on the mesh's own database server."""
    program = floors.pgbench()
    if program is None:
        report.missing.append("pgbench: this PostgreSQL installation does not have it")
        return
    postgres = mesh.postgres()
    tell(f"floor: pgbench makes its tables (scale {floors.SCALE})")
    async with floors.pgbench_database(program, postgres):
        for clients in report.plan.pgbench_clients:
            tell(f"floor: pgbench TPC-B, {clients} clients")
            async with _counted(report, mesh.roots(), "floor: pgbench TPC-B", "transactions", clients) as made:
                made.tally = await floors.tpc_b(program, postgres, clients, report.plan.pgbench_seconds)


def world(state: State, target: str, parties: tuple[Party, ...]) -> World:
    """What the load generators pay in, and as whom."""
    tokens = [
        issuer.mint(state, "teller", tenant=bank.TENANT, subject=f"teller-{number}") for number in range(_SUBJECTS)
    ]
    return World(
        target=target,
        ca=str(state.ca),
        tokens=tuple(tokens),
        accounts=tuple(party.account for party in parties),
        names=tuple(party.name for party in parties),
    )
