"""What others build on, made from the contracts by `make artifacts`; nothing of the mesh imports it."""
