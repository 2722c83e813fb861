"""Deployments that run: real payloads, replay."""
