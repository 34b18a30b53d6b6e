"""Finding what a prompt names in videos, and carrying it from frame to frame."""
