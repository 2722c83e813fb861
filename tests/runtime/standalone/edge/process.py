"""A server with a fake edge as a process of its own: `python -m tests.runtime.standalone.edge.process ADDRESS`."""

from __future__ import annotations

import sys

from tests.runtime.standalone.fakes import FakeEdge, serving

if __name__ == "__main__":
    with serving(FakeEdge(), bind=sys.argv[1]) as server:
        print(server.endpoint, flush=True)
        server.wait()
