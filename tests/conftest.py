"""Settings of every test run."""

import os

# before torch is imported anywhere: see autosplit.cli.app.main
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
