"""A Kubernetes node on this machine for as long as a run takes: real programs, and nothing left of them afterwards."""
