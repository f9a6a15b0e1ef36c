"""`python -m lvsfab` is the command line."""

from lvsfab.cli import main

main()
