"""The server: sessions, batches, counters, metrics."""
