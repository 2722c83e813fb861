"""Deployments that run: real payloads, and bundles that run elsewhere.

`deployment` is a plan with its weights; `export` writes it as a bundle, whose code is `standalone`. Imports everything
up to `training`, not reports or pipelines. Begin with `deployment.Deployment`.
"""
