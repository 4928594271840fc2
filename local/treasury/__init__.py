"""A month of a treasury, told step by step in a sandbox."""
