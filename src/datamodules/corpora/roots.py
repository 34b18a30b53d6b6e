"""Opening the root of a corpus."""

import os

from datamodules.corpora.folder_root import FolderRoot
from datamodules.corpora.object_root import ObjectRoot
from datamodules.corpora.paths import describe_error
from datamodules.corpora.root import Root
from datamodules.corpus import Corpus
from datamodules.errors import CorpusError
from datamodules.object_store import is_url, parse_url
from datamodules.objects import has_objects

_PATIENCE_SECONDS = 30.0  # the first request shows a wrong endpoint: do not wait for it as for a lost network


def open_root(corpus: Corpus) -> Root:
    """Return the root of a corpus, for one listing: what it has looked up is not looked up again.

    Raises:
        CorpusError: it is not a folder, or there is no object below its URL.
        ConfigError: the URL is not that of a supported store, or the extra is not installed.
        EnvironmentFailure: the store does not answer, or refuses the credentials.
    """
    option, root = f"--data.{corpus.root_option}", corpus.root
    if not is_url(root):
        if not os.path.isdir(root):
            raise CorpusError(f"{option} {root} is not a folder")
        return FolderRoot(root)
    parse_url(root, option)
    try:
        if not has_objects(root, _PATIENCE_SECONDS):
            raise CorpusError(f"{option} {root}: there is no object below this URL")
    except OSError as error:
        raise CorpusError(f"{option} {describe_error(root, error)}") from error
    return ObjectRoot(root.rstrip("/"))
