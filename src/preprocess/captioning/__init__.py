"""Captions of images by vision-language models: on the rank's device, or by a server."""
