"""Run the command line as ``python -m raypipe``."""

from raypipe.cli import main

main()
