"""Bytes to uint8 frames, and what is known of a file."""
