"""The transactions service; see README.md beside this file."""
