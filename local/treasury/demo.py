"""A month of a treasury in a sandbox, from the first exchange to an auditor's export, told step by step and judged.

It must not reach behind the edge but to move the clock and to verify: all else any client can do.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from local import client, demo_bank, demo_mesh, sandbox
from local.demo_report import Screen
from local.state import State
from local.treasury import closing, foreign_exchange, opening, payments, settlement, standing_order
from local.treasury.story import TIME_ZONE, Story, first_moment

Step = Callable[[Story], Awaitable[None]]

STEPS: tuple[Step, ...] = (
    opening.open_books,
    opening.set_fees,
    foreign_exchange.import_rates,
    foreign_exchange.buy_dollars,
    foreign_exchange.miss_a_quote,
    payments.reverse,
    standing_order.order_rent,
    payments.hold_and_capture,
    standing_order.catch_up,
    settlement.reconcile,
    closing.judge_balances,
    closing.issue_statement,
    closing.verify_books,
    closing.export_history,
)
"""In this order; time goes on between them. Each is told by the first line of its docstring."""


def run(folder: Path | None, *, keep: bool = False) -> int:
    """Tells the story in a sandbox of its own, or in the one that runs in `folder`; the command's exit code.

    With `keep`, a sandbox of its own goes on until Ctrl-C and its folder stays. Raises MeshError.
    """
    return demo_mesh.told(_run(folder, keep))


async def _run(folder: Path | None, keep: bool) -> int:
    screen = Screen()
    async with demo_mesh.standing(folder, screen, keep, sandbox=True) as (state, port):
        async with client.connect(state, f"localhost:{port}") as edge:
            story = await _begin(screen, state, port, edge)
            for step in STEPS:
                screen.heading(str(step.__doc__).splitlines()[0])
                await step(story)
        screen.step(f"{len(STEPS)} steps in {screen.seconds():.1f} s, from {story.begins:%d %B} to {story.now():%d %B}")
        await demo_mesh.kept(screen, state, port, keep=keep and folder is None)
    return demo_mesh.ended(screen, good=not story.problems)


async def _begin(screen: Screen, state: State, port: int, edge: client.Edge) -> Story:
    """A tenant of its own, and the moment at which the story begins."""
    begins = first_moment(sandbox.now(state))
    tenant = f"treasury-{secrets.token_hex(3)}"
    await client.ensure_tenant(state, port, tenant, time_zone=TIME_ZONE)
    documents = Path(tempfile.mkdtemp(prefix="florin-treasury-"))
    story = Story(screen, state, demo_bank.staff(edge, tenant), documents, begins)
    screen.step(f"tenant {tenant} is there; it has nothing but what follows")
    await story.advance(to=begins)
    return story
