"""The compliance service; see README.md beside this file."""
