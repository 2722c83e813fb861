"""Training: backbone, supernet and fine-tuning, by one loop with several losses."""
