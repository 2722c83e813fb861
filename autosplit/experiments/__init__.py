"""What measures autosplit itself: baselines of the literature, search methods on tables, emulated links.

No search imports it. Begin with `compare.run`.
"""
