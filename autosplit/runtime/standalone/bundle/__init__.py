"""The bundle on disk: its manifest, its networks, its self-check."""
