"""The main job, end to end: a payroll file through a mesh, everything that can go wrong in it, judged at the end.

It must not reach behind the edge: what it does, any client can do. Only `verify` looks into the databases.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from florin.compliance.v1 import compliance_service_pb2, decision_pb2
from local import client, demo_bank, demo_listener, demo_mesh, demo_outcome
from local.client import Edge
from local.demo_bank import Bank, Party
from local.demo_listener import Listener
from local.demo_outcome import Expected
from local.demo_report import Screen, sums
from local.pay import Fate, Outcome, pay, wait_final
from local.state import MeshError, State
from meshkit.safe_xml import FileRefused
from transactions.payments import pain001, plan
from transactions.payments.plan import PlannedPayment

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PAYROLL = EXAMPLES / "payroll.xml"
WATCHLIST = EXAMPLES / "watchlist"
_WEBHOOK_SECONDS = 60.0
_STAGE_SECONDS = 60.0
_COMPLETED = demo_outcome.event_of("completed")


def run(folder: Path | None, *, keep: bool = False, file: Path = PAYROLL) -> int:
    """Runs the demo on a mesh of its own, or on the one that runs in `folder`; the command's exit code.

    With `keep`, a mesh of its own goes on until Ctrl-C and its folder stays. Raises MeshError.
    """
    return demo_mesh.told(_run(folder, keep, file))


async def _run(folder: Path | None, keep: bool, file: Path) -> int:
    screen = Screen()
    try:
        planned = _plan(file)
    except (FileRefused, OSError) as refused:
        raise MeshError(f"{file} is refused, nothing of it is paid: {refused}") from None
    screen.step(f"read {file.name}: {len(planned)} payments, {_kinds(planned)}; the schema and all sums hold")
    async with demo_mesh.standing(folder, screen, keep) as (state, port):
        async with client.connect(state, f"localhost:{port}") as edge, demo_listener.listening() as listener:
            good = await _job(screen, state, port, edge, listener, planned)
        await demo_mesh.kept(screen, state, port, keep=keep and folder is None)
    return demo_mesh.ended(screen, good=good)


def _plan(file: Path) -> tuple[PlannedPayment, ...]:
    return plan.plan(pain001.read(file), today=datetime.now(UTC).date())


def _kinds(planned: Sequence[PlannedPayment]) -> str:
    currencies = sorted({item.payment.currency_code for item in planned})
    return f"{len({item.instruction.id for item in planned})} payers, currencies {', '.join(currencies)}"


async def _job(
    screen: Screen,
    state: State,
    port: int,
    edge: Edge,
    listener: Listener,
    planned: Sequence[PlannedPayment],
) -> bool:
    """The job itself; whether everything came out as it had to."""
    tenant = f"payroll-{secrets.token_hex(3)}"
    await client.ensure_tenant(state, port, tenant, time_zone="Europe/Vienna")
    bank = demo_bank.staff(edge, tenant)
    parties = demo_bank.parties(planned)
    wanted = demo_outcome.expected(planned, parties)
    await _prepare(screen, bank, listener, parties)

    screen.step("paying the file through the edge, as a teller")
    started = time.monotonic()
    with screen.progress(len(planned)) as on_batch:
        outcomes = await pay(bank.teller, planned, on_batch=on_batch)
    seconds = time.monotonic() - started
    screen.outcomes(outcomes)
    problems = demo_outcome.surprises(outcomes, wanted)

    outcomes = await _review(screen, bank, outcomes)
    problems += [
        f"{outcome.end_to_end_id} is {outcome.fate} after its review"
        for outcome in outcomes
        if wanted[outcome.item.number].fate is Fate.IN_REVIEW and outcome.fate is not Fate.COMPLETED
    ]
    problems += await _money(screen, bank, outcomes, parties)
    problems += await _webhooks(screen, listener, outcomes, wanted)
    problems += await demo_mesh.verify(screen, state)
    for problem in problems:
        screen.problem(problem)
    screen.step(
        f"{len(planned)} payments in {seconds:.2f} s: {len(planned) / seconds:.0f} payments/s; "
        f"{screen.seconds():.1f} s in all"
    )
    return not problems


async def _prepare(screen: Screen, bank: Bank, listener: Listener, parties: Sequence[Party]) -> None:
    screen.step(f"tenant {bank.tenant} is there; it has nothing but what follows")
    count = await demo_bank.set_limits(bank)
    listed = await demo_bank.import_watchlist(bank.operator, WATCHLIST)
    screen.step(
        f"{count} limits are set; {listed.name} version {listed.version} has {listed.entry_count} entries "
        f"under {listed.name_count} names"
    )
    endpoint = await demo_listener.register(bank.operator, listener)
    screen.step(f"{endpoint} sends to {listener.url}")
    await demo_bank.open_customers(bank, parties)
    screen.step(f"{len(parties)} customers are recorded by a teller and verified by a compliance officer")
    pending = await demo_bank.until_active(bank, parties, _STAGE_SECONDS)
    screen.step(f"{len(parties)} accounts are active ({pending} of them waited for the event of their verification)")
    funds = await demo_bank.fund(bank, parties)
    screen.step(f"the payers have {sums(funds)}, from the bank's settlement accounts")


async def _review(screen: Screen, bank: Bank, outcomes: Sequence[Outcome]) -> tuple[Outcome, ...]:
    """A compliance officer looks at what is in review, and approves it."""
    officer = bank.compliance
    settled = []
    for outcome in outcomes:
        if outcome.fate is not Fate.IN_REVIEW or outcome.transfer is None:
            settled.append(outcome)
            continue
        name = outcome.transfer.name
        case = await _case(bank, name)
        decision = await officer.call(
            officer.compliance.GetDecision, compliance_service_pb2.GetDecisionRequest(name=case.decision)
        )
        screen.step(f"{case.name}: {outcome.item.payment.creditor_name} {_facts(decision.decision)}")
        resolution = compliance_service_pb2.ResolveCaseRequest(
            name=case.name,
            resolution=compliance_service_pb2.ResolveCaseRequest.RESOLUTION_APPROVE,
            reason="Another person of a similar name",
            request_id=f"resolve-{case.name}",
        )
        await officer.call(officer.compliance.ResolveCase, resolution)
        transfer = await wait_final(bank.teller, name, _STAGE_SECONDS, through_review=True)
        done = Outcome(outcome.item, _fate(transfer.state), transfer=transfer)
        screen.step(f"approved by a compliance officer: {outcome.end_to_end_id} is {done.fate}")
        settled.append(done)
    return tuple(settled)


async def _case(bank: Bank, transfer: str) -> decision_pb2.Case:
    officer = bank.compliance
    patience = client.Patience(_STAGE_SECONDS)
    while True:
        request = compliance_service_pb2.ListCasesRequest(state=decision_pb2.CASE_STATE_OPEN, transfer=transfer)
        page = await officer.call(officer.compliance.ListCases, request)
        if page.cases:
            return page.cases[0]
        if not await patience.wait():
            raise TimeoutError(f"there is no open case of {transfer}")


def _facts(decision: decision_pb2.Decision) -> str:
    checks = [check for check in decision.trace.checks if check.outcome != decision_pb2.DECISION_OUTCOME_ALLOW]
    return "; ".join(
        f"{check.check} version {check.version}: "
        + ", ".join(f"{name} {value}" for name, value in sorted(check.facts.items()))
        for check in checks
    )


def _fate(state: int) -> Fate:
    from florin.transactions.v1 import transfer_pb2

    fates: Mapping[int, Fate] = {
        transfer_pb2.TRANSFER_STATE_COMPLETED: Fate.COMPLETED,
        transfer_pb2.TRANSFER_STATE_DECLINED: Fate.DECLINED,
        transfer_pb2.TRANSFER_STATE_IN_REVIEW: Fate.IN_REVIEW,
    }
    return fates.get(state, Fate.OPEN)


async def _money(screen: Screen, bank: Bank, outcomes: Sequence[Outcome], parties: Sequence[Party]) -> list[str]:
    """Every balance against what the completed payments make of it."""
    accounts = await demo_bank.list_accounts(bank.teller)
    problems = []
    for name, minor in demo_outcome.balances(outcomes, parties).items():
        balance = accounts[name].balance
        if balance.posted.minor_units != minor or balance.held.minor_units != 0:
            problems.append(
                f"{name} has {balance.posted.minor_units} posted and {balance.held.minor_units} held, expected {minor}"
            )
    totals: dict[str, int] = {}
    for account in accounts.values():
        totals[account.currency_code] = totals.get(account.currency_code, 0) + account.balance.posted.minor_units
    problems += [f"all accounts in {code} sum to {total}, not zero" for code, total in totals.items() if total]
    if not problems:
        screen.step(
            f"{sums(demo_outcome.moved(outcomes))} moved; each of {len(parties)} balances is what it has to be, "
            "and all accounts sum to zero"
        )
    return problems


async def _webhooks(
    screen: Screen, listener: Listener, outcomes: Sequence[Outcome], wanted: Mapping[int, Expected]
) -> list[str]:
    """Waits until every event of every payment arrived."""
    lives = demo_outcome.lives(outcomes, wanted)
    reviews = sum(expected.fate is Fate.IN_REVIEW for expected in wanted.values())

    def missing() -> int:
        told = sum(len(names - listener.subjects(kind)) for kind, names in lives.items())
        return told + sum(max(reviews - len(listener.subjects(kind)), 0) for kind in demo_listener.CASE_EVENTS)

    await listener.until(lambda: not missing(), _WEBHOOK_SECONDS)
    screen.webhooks(listener)
    completed, arrived, lacking = lives[_COMPLETED], listener.subjects(_COMPLETED), missing()
    problems = []
    if lacking:
        problems.append(f"{lacking} events have no webhook after {_WEBHOOK_SECONDS:.0f} s")
    if arrived - completed:
        problems.append(f"{len(arrived - completed)} webhooks tell of payments that were not completed here")
    if listener.unsigned:
        problems.append(f"{listener.unsigned} webhooks had no valid signature")
    if not problems:
        again = f"; {listener.repeated} deliveries came twice, under the same id" if listener.repeated else ""
        screen.step(f"each of {len(completed)} completed payments was told by a signed webhook{again}")
    return problems
