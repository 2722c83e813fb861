"""From a scenario to a result: `search` runs the phases in order, `replay` repeats a result, `adapt` makes a bundle of
several rates. Begin with `search`.
"""
