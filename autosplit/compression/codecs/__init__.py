"""Codec families: what shrinks the feature at the cut and brings it back."""
