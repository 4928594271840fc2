"""Real parts for tests: PostgreSQL, NATS, certificates and tokens, started once a session."""
