"""Settings of every test run."""

import os

# before torch is imported anywhere: see autosplit.cli.app.main
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
