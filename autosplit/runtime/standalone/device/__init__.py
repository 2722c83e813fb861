"""The client: requests, fallback, the choice of a rate."""
