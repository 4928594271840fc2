"""What breaks an invariant: which, whose, what, and a sentence; pure."""

from __future__ import annotations

from dataclasses import dataclass

Row = tuple[str, str, str, str]
"""What a rule's statement gives of each violation: tenant, currency, object, and what is wrong with it."""

CLAIMS = {
    "INV-1": "the entries of a journal sum to zero per currency",
    "INV-2": "a balance is the sum of its entries, numbered without a gap, and differs from the bank's by what is open",
    "INV-3": "no hold or posting makes the available balance negative",
    "INV-4": "the services' roles cannot change or delete what is append-only",
    "INV-5": "one request_id has one effect, a run of a schedule pays once, a deposit is credited once",
    "INV-6": "a transfer has its journal, with fee and exchange, exactly when it completed, and no hold outlives it;"
    " a journal that is no transfer's was audited",
    "INV-7": "every change of state has exactly one event",
    "INV-8": "a limit's use is the sum of its live and captured reservations",
    "INV-9": "every journal is what was sealed, in a signed log that was only added to",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One violation. It holds ids and numbers alone, no personal data."""

    invariant: str
    tenant: str
    """Whose; empty for what is no tenant's, such as a right of a role."""
    currency: str
    """The currency that is wrong; empty where it may be any of the tenant's."""
    object: str
    """What it is about, for example "accounts/{account}"."""
    sentence: str
    """What is wrong, to be read right behind the object."""
    place: str = ""
    """Whose table it is, where the object does not say."""
    is_on_its_way: bool = False
    """Whether a message may be under way that puts it right."""
    is_exact: bool = False
    """Whether it is another violation where the sentence is another one: of what does not change, or of what changes
    so often that only the same words twice say anything."""

    @property
    def line(self) -> str:
        """All of it, for people."""
        whose = f"{self.tenant}/" if self.tenant else ""
        return f"{self.place}{whose}{self.object}{self.sentence}"

    @property
    def key(self) -> tuple[str, str, str]:
        """The same for the same violation in another reading, which may have other numbers."""
        return self.invariant, self.tenant, self.object + (self.sentence if self.is_exact else "")
