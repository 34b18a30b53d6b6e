"""Decoders of videos. A module of this package is a backend, named in `Decoding.backend`; imported where first used.

Each has `decode(video, indices)`, which yields the frames `indices` (ascending, each once) of a `Video`: uint8
[3, H, W], RGB, upright; or raises DecodeError. All give the same pixels; what each takes: `docs/videos.md`. `animation`
cannot be chosen: it reads animated images, which the others do not.
"""
