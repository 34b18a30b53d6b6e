"""From items to batches of frames: requests, tickets, workers, slices, prefetching."""
