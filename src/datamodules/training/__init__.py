"""From committed shards to training batches."""
