"""The mesh on one machine: PostgreSQL, NATS, Envoy and the services as child processes; the `florin` command."""
