"""The notifications service; see README.md beside this file."""
