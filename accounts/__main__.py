"""`python -m accounts` serves; `python -m accounts migrate` brings the schema up."""

from accounts.app import build
from accounts.settings import Settings
from meshkit.command import run

run(Settings, build)
