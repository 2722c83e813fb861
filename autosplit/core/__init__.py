"""What every other room speaks of: plans, scenarios, results and their files, errors, plugins, the cache.

Imports nothing of the package but the errors of a running deployment. Begin with `plan` and `scenario`.
"""
