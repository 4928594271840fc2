"""`python -m local` is the `florin` command, for where it is not installed: in the image of the operator."""

from local.cli import main

main()
