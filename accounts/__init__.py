"""The accounts service; see README.md beside this file."""
