"""What measures autosplit itself: comparisons with baselines, search methods on tables, emulated links. Nothing of a
search imports it.
"""
