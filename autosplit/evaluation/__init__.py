"""Measuring plans: how accurate they are, how many bytes they send, and what that is worth under given conditions.

Imports the rooms up to `training`; agents and pipelines import it. Begin with `base`, the protocol of an evaluator,
then `live`, `cached` and `scorer`.
"""
