"""A corpus of one's own: How2Sign, a list of sentences that says where each is in a long video.

    python -m preprocess run keypoints_videos --output.dir O \
        --data.corpus examples.extending.how2sign.How2Sign --data.root /data/how2sign/raw_videos \
        --data.sentences /data/how2sign/how2sign_realigned_train.csv

| column          | meaning                                                                    |
|-----------------|----------------------------------------------------------------------------|
| VIDEO_NAME      | the video is `{VIDEO_NAME}.mp4` below the root                             |
| SENTENCE_NAME   | unique; it becomes the item's key                                          |
| START_REALIGNED | first second of the sentence in the video                                  |
| END_REALIGNED   | second at which the sentence has ended                                     |
| SENTENCE        | the English text; the samples have it as `text`                            |

The columns are separated by tabs.
"""

from collections.abc import Iterator

from datamodules.corpora.listing import faulty_row, key_of_row
from datamodules.corpora.root import Root
from datamodules.corpora.roots import open_root
from datamodules.corpora.row import Row
from datamodules.corpora.rows import read_rows
from datamodules.corpora.text_lists import list_sha256
from datamodules.corpora.values import as_name, as_seconds, as_text
from datamodules.corpus import Corpus, Item, check_split, key_from_path
from datamodules.errors import CorpusError

COLUMNS = ("VIDEO_NAME", "SENTENCE_NAME", "START_REALIGNED", "END_REALIGNED", "SENTENCE")


class How2Sign(Corpus):
    """The sentences of one list, in its order.

    Args:
        root: folder of the videos.
        sentences: the list; see the module.
        split: the split that all sentences belong to.

    Raises:
        CorpusError: the list cannot be read, or `split` cannot name a split.
    """

    def __init__(self, root: str, sentences: str, split: str = "train") -> None:
        # Public attributes belong to the run's fingerprint (except `root`): what the list says, not where it is.
        self.root, self.split = root, check_split(split)
        self.sentences_sha256 = list_sha256(sentences, "--data.sentences")
        self._sentences = sentences

    def items(self) -> Iterator[Item]:
        """Return one item for each sentence. A row that cannot be used fails alone, with its reason."""
        files = open_root(self)  # of a folder, or of an object store
        return (self._item(files, row) for row in read_rows(self._sentences))

    def _item(self, files: Root, row: Row) -> Item:
        key, path = key_of_row(row.where), ""
        try:
            row.require(*COLUMNS)
            key = key_from_path(as_name("SENTENCE_NAME", row.values["SENTENCE_NAME"]))
            path = f"{as_name('VIDEO_NAME', row.values['VIDEO_NAME'])}.mp4"
            start, stop = (as_seconds(name, row.values[name]) for name in ("START_REALIGNED", "END_REALIGNED"))
            if start is None or stop is None or stop <= start:
                raise CorpusError(f"the sentence goes from {start} s to {stop} s")
            facts = files.stat(path)
            return Item(
                key=key,
                split=self.split,
                path=path,
                start_seconds=start,
                stop_seconds=stop,
                cost=facts.num_bytes,
                modified=facts.modified,
                version=facts.version,
                meta={"text": as_text("SENTENCE", row.values["SENTENCE"])},
            )
        except CorpusError as error:
            return faulty_row(row.where, error, key, self.split, path)
