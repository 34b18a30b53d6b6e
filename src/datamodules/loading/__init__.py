"""From items to batches of frames: workers, slices, prefetching."""
