"""``python -m raypipe`` is the command line."""

from raypipe.cli import main

main()
