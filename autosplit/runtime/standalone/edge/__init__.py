"""The edge server: sessions, batches, counters, metrics.

Imports `protocol`; a bundle's half is handed in. Begin with `server.EdgeServer`.
"""
