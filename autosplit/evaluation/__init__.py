"""Measuring plans: what they cost, how accurate they are, how many bytes they send."""
