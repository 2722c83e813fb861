"""Controllers: what decides, picture by picture, in a stream.

Begin with `base`, then `rules` (what needs no training) and `learned` (a network trained by PPO).
"""
