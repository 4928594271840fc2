"""Payment files: what pain.001 and CSV say, and the transfers that they ask for; it must not call anybody."""
