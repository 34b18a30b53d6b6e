"""PHOENIX-2014 (Koller et al., CVIU 2015): German Sign Language of weather forecasts, without translations.

Its successor with translations is `phoenix`. The layout is that of `phoenix-2014.v3.tar.gz`
(https://www-i6.informatik.rwth-aachen.de/~koller/RWTH-PHOENIX/), below the folder of a release,
`phoenix-2014-multisigner` or `phoenix-2014-signerindependent-SI5`, whose training data lack signer 5:

| path                                                          | content                                         |
|---------------------------------------------------------------|-------------------------------------------------|
| `annotations/manual/{split}.corpus.csv`                       | the sentences; `{split}.SI5.corpus.csv` of SI5  |
| `features/fullFrame-210x260px/{split}/{folder}`               | the frames of a sentence, PNGs                  |

| column     | meaning                                                                          |
|------------|----------------------------------------------------------------------------------|
| id         | becomes `sentence_id`, and after the split the key                               |
| folder     | of the frames, with a pattern of their names: `01April_2010_…_default-1/1/*.png` |
| signer     | `Signer01` …; becomes `signer`                                                   |
| annotation | the signs, in capitals; becomes `glosses`                                        |
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

from datamodules.corpora.sentences import SentenceColumns, Sentences, list_of_each
from datamodules.corpora.values import as_name
from datamodules.errors import ConfigError
from datamodules.objects import join

Release = Literal["multisigner", "SI5"]

_FOLDERS = {"multisigner": "phoenix-2014-multisigner", "SI5": "phoenix-2014-signerindependent-SI5"}
_LISTS = {"multisigner": "{split}.corpus.csv", "SI5": "{split}.SI5.corpus.csv"}


class Phoenix2014(Sentences):
    """The sentences of PHOENIX-2014, in the order of the annotation files.

    Args:
        root: the folder or URL that holds the folders of the releases (`…/phoenix2014-release`).
        release: `multisigner`, or `SI5` for a test on a signer whom training has not seen.
        splits: which of train, dev and test.
        max_items: list at most this many sentences of each split; None: all.

    Raises:
        ConfigError: the release is neither.
        CorpusError: an annotation file cannot be read.
    """

    language: ClassVar[str] = "gsg"
    has_frames: ClassVar[bool] = True
    columns: ClassVar[SentenceColumns] = SentenceColumns(video="folder", id="id", glosses="annotation", signer="signer")

    def __init__(
        self,
        root: str,
        release: Release = "multisigner",
        splits: Sequence[str] = ("train", "dev", "test"),
        max_items: int | None = None,
    ) -> None:
        if release not in get_args(Release):
            raise ConfigError(f"--data.release {release}: choose from {', '.join(get_args(Release))}")
        self.release = release
        path = join(root, f"{_FOLDERS[release]}/annotations/manual/{_LISTS[release]}")
        super().__init__(root, list_of_each(splits, path, "--data.root"), max_items, quoting="none")

    def video_path(self, values: Mapping[str, Any], split: str) -> str:
        """Return the folder of the frames, without the pattern of their names."""
        folder = as_name("folder", values["folder"]).removesuffix("/*.png")
        return f"{_FOLDERS[self.release]}/features/fullFrame-210x260px/{split}/{folder}"
