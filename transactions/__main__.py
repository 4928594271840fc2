"""Starts the transactions service, or migrates its database."""

from meshkit import command
from transactions import app, settings

if __name__ == "__main__":
    command.run(settings.Settings, app.build)
