"""Serves compliance, or migrates its database."""

from compliance.app import build
from compliance.settings import Settings
from meshkit import command

if __name__ == "__main__":
    command.run(Settings, build)
