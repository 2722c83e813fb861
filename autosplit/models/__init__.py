"""Backbones and what is done to them: built, loaded, traced, cut, pruned, counted."""
