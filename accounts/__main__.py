"""`python -m accounts` serves; `… migrate` brings the schema up; `… archive` moves old periods out of the ledger."""

from accounts import archive_command
from accounts.app import build
from accounts.settings import Settings
from meshkit.command import run

run(Settings, build, {"archive": archive_command.run})
