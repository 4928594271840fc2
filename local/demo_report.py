"""What the demo shows: steps, progress, tables; it must not decide or call anything."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from local.demo_listener import Listener
from local.pay import Fate, Outcome
from meshkit import money
from transactions.payments.plan import PlannedPayment

_STYLES = {
    Fate.COMPLETED: "green",
    Fate.REPLAYED: "cyan",
    Fate.IN_REVIEW: "yellow",
    Fate.DECLINED: "red",
    Fate.REFUSED: "magenta",
    Fate.OPEN: "bold red",
}
_PLAIN_WIDTH = 120
_ROWS = 4


class Screen:
    """A terminal, or plain lines where there is none."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        if not self.console.is_terminal:
            self.console = Console(file=self.console.file, highlight=False, width=_PLAIN_WIDTH, color_system=None)
        self._started = time.monotonic()

    def seconds(self) -> float:
        """Since the demo began."""
        return time.monotonic() - self._started

    def step(self, sentence: str) -> None:
        """One thing that was done, with the time."""
        self.console.print(f"[dim]{self.seconds():5.1f} s[/dim]  {sentence}", soft_wrap=True)

    def heading(self, sentence: str) -> None:
        """What comes next."""
        self.console.print(f"\n[bold]{sentence}[/bold]", soft_wrap=True)

    def problem(self, sentence: str) -> None:
        """One thing that is not as it has to be."""
        self.console.print(f"[bold red]  ✗    {sentence}[/bold red]", soft_wrap=True)

    @contextlib.contextmanager
    def progress(self, total: int) -> Iterator[Callable[[Sequence[PlannedPayment], float], None]]:
        """Shows batches as they are answered: a bar on a terminal, a line each elsewhere."""
        done = 0

        def line(items: Sequence[PlannedPayment], seconds: float) -> None:
            nonlocal done
            done += len(items)
            self.step(f"sent {len(items)} payments in {seconds * 1000:.0f} ms, {done} of {total}")

        if not self.console.is_terminal:
            yield line
            return
        columns = (TextColumn("         paying"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task("paying", total=total)

            def advance(items: Sequence[PlannedPayment], seconds: float) -> None:
                line(items, seconds)
                progress.advance(task, len(items))

            yield advance

    def outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Every payment that is not simply completed, and how many of each there are."""
        table = Table(title="What became of the payments", title_justify="left", title_style="bold")
        for name, justify in (("EndToEndId", "left"), ("amount", "right"), ("to", "left"), ("outcome", "left")):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        table.add_column("why", overflow="fold")
        for outcome in outcomes:
            if outcome.fate is not Fate.COMPLETED:
                table.add_row(
                    outcome.end_to_end_id,
                    amount(outcome.item),
                    outcome.item.payment.creditor_name,
                    f"[{_STYLES[outcome.fate]}]{outcome.fate}[/]",
                    _why(outcome),
                )
        if table.row_count:
            table.add_section()
        counts = Counter(outcome.fate for outcome in outcomes)
        for fate in Fate:
            if counts[fate]:
                table.add_row("", str(counts[fate]), "", f"[{_STYLES[fate]}]{fate}[/]", "")
        self.console.print(table)

    def webhooks(self, listener: Listener) -> None:
        """How many of each type arrived, and a few of them."""
        table = Table(title="Webhooks with a verified signature", title_justify="left", title_style="bold")
        table.add_column("event type")
        table.add_column("received", justify="right")
        table.add_column("for example", overflow="fold")
        for type_, count in sorted(listener.by_type().items()):
            examples = [event.subject for event in listener.events.values() if event.type == type_][:1]
            table.add_row(type_, str(count), ", ".join(examples))
        self.console.print(table)


def amount(item: PlannedPayment) -> str:
    """A payment's amount as people write it."""
    currency = item.payment.currency_code
    if item.request is None or currency not in money.EXPONENTS:
        return f"{item.payment.amount or 0} {currency}"
    return f"{money.format_minor(item.request.amount.minor_units, currency)} {currency}"


def sums(totals: Mapping[str, int]) -> str:
    """Sums by currency as people write them."""
    return " and ".join(f"{money.format_minor(minor, code)} {code}" for code, minor in sorted(totals.items()))


def _why(outcome: Outcome) -> str:
    if outcome.fate is Fate.REPLAYED:
        return "same EndToEndId and payload: the answer of the first, nothing done twice"
    if outcome.fate is Fate.IN_REVIEW:
        return "waits for a compliance officer; the amount is held"
    return f"{outcome.reason}: {outcome.message}" if outcome.reason else outcome.message
