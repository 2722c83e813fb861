"""Training by one loop with several losses: backbone, supernet, codecs alone, fine-tuning of a plan.

Imports the rooms up to `latency`. Begin with `prepare`, which takes a scenario to its trained networks, then `loop`.
"""
