"""The seed of a test run: what is chosen by chance comes from it, and comes again with FLORIN_SEED."""

from __future__ import annotations

import os
import random

# Into the environment: the processes of one run draw from the same seed.
SEED = int(os.environ.setdefault("FLORIN_SEED", str(random.SystemRandom().randrange(1_000_000))))
