"""Codec families: what shrinks the feature at the cut and brings it back.

Imports `core` and `compression.quantise`. Begin with `base`, then `nested`, the default.
"""
