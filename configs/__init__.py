"""YAML profiles of devices and channels, and the packaged scenarios."""
