"""Scripts that produce every published number; each says in its first lines how it is run."""
