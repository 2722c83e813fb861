"""How controllers of streams come about: `tuning` chooses the settings of rules, `learned` trains a network by PPO.

The controllers themselves are in `autosplit.runtime.standalone.control`, as devices run them. Begin with `play`, which
tells how well one does.
"""
