"""Serves notifications, or migrates its database."""

from meshkit import command
from notifications.app import build
from notifications.settings import Settings

if __name__ == "__main__":
    command.run(Settings, build)
