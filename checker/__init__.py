"""The checker: judges the invariants on the databases of a mesh at work, and freezes a ledger that breaks one."""
