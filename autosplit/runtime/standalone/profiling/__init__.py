"""Timing a bundle on the machine that it lies on, and writing the device profile that a search takes.

Imports `payload`, `bundle` and `protocol`, and neither torch nor autosplit. Begin with `run`, which is
`python -m coinference profile`; `autosplit profile` times networks of torch with the same clock.
"""
