"""All of Framemill that makes: extractors, the writing of shards, the command line."""

from importlib.metadata import version

__version__ = version("framemill")
