"""Training batches from committed shards."""
