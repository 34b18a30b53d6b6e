"""Decoders of videos. Each module is a `datamodules.media.video.Backend`, imported where it is first used.

What each one accepts: `docs/videos.md`.
"""
