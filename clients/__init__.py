"""The clients for those who call Florin from outside, and what builds them; nothing of the mesh imports it."""
