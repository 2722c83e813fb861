"""From a scenario to a result: `search` runs the phases, `replay` repeats a result, `adapt` bundles several rates.

Imports every room before it; only experiments and the command line import it. Begin with `search`.
"""
