"""`python -m accounts` serves; `python -m accounts migrate` brings the schema up."""

from meshkit.command import run

from accounts.app import build
from accounts.settings import Settings

run(Settings, build)
