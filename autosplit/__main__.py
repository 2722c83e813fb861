"""`python -m autosplit`: the command line where the script `autosplit` is not on the path."""

from autosplit.cli import main

main()
