"""CSL-Daily (Zhou et al., CVPR 2021): Chinese Sign Language, sentences of daily life, as folders of frames.

The files are those of the release (https://ustc-slr.github.io/datasets/2021_csl_daily):

| path                                | content                                                              |
|-------------------------------------|----------------------------------------------------------------------|
| `sentence_label/csl2020ct_v2.pkl`   | a pickle of a dict whose `info` is a list of dicts, one a sentence   |
| `sentence_label/split_1.txt`        | a name and its split (train, dev or test) a line, separated by a bar |
| `…/frames_512x512/{name}`           | the frames of a sentence, JPEGs                                      |

| key of a sentence | meaning                                                            |
|-------------------|--------------------------------------------------------------------|
| name              | becomes `sentence_id`, and after the split the key                 |
| label_char        | list of Chinese characters; joined, they become `text`             |
| label_gloss       | list of signs; become `glosses`                                    |
| signer            | number, from 0; becomes `signer`                                   |

The pickle is read as data: one that names any class or function is refused. The sentence S000005_P0004_T00 of
`split_1.txt` is taken for S000007_P0003_T00 of the pickle.
"""

import io
import pickle
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from datamodules.corpora.paths import describe_error
from datamodules.corpora.row import Row
from datamodules.corpora.sentences import SentenceColumns, Sentences
from datamodules.corpora.text_lists import list_sha256, read_list
from datamodules.corpora.values import as_name
from datamodules.errors import CorpusError
from datamodules.objects import open_input

_SEPARATORS = {"label_char": "", "label_gloss": " "}  # of lists that become texts
_RENAMED = {"S000005_P0004_T00": "S000007_P0003_T00"}


class CslDaily(Sentences):
    """The sentences of CSL-Daily, in the order of the pickle.

    Args:
        root: folder or URL of the sentences' folders, `…/frames_512x512`.
        sentences: `csl2020ct_v2.pkl`.
        split_list: `split_1.txt`.
        max_items: list at most this many sentences, from the beginning; None: all.

    Raises:
        CorpusError: one of the files cannot be read.
    """

    language: ClassVar[str] = "csl"
    has_frames: ClassVar[bool] = True
    columns: ClassVar[SentenceColumns] = SentenceColumns(
        video="name", id="name", text="label_char", glosses="label_gloss", signer="signer", split="split"
    )

    def __init__(self, root: str, sentences: str, split_list: str, max_items: int | None = None) -> None:
        super().__init__(root, {"sentences": sentences}, max_items)
        self.split_sha256 = list_sha256(split_list, "--data.split_list")
        lines = (line.partition("|") for _, line in read_list(split_list, "--data.split_list"))
        self._splits = {_RENAMED.get(name, name): split for name, _, split in lines}

    def rows(self, path: str) -> Iterator[Row]:
        """Yield the sentences of the pickle, with their splits."""
        for number, info in enumerate(_read_pickle(path), 1):
            where = f"{path}, row {number}"
            if not isinstance(info, dict):
                yield Row(where, {}, f"it is not a dict: {info!r:.80}")
                continue
            lists = {name: info[name] for name in _SEPARATORS if isinstance(info.get(name), list)}
            joined = {name: _SEPARATORS[name].join(map(str, parts)) for name, parts in lists.items()}
            yield Row(where, {**info, **joined, "split": self._splits.get(str(info.get("name")))})

    def video_path(self, values: Mapping[str, Any], split: str) -> str:
        """Return the folder of the frames."""
        return as_name("name", values["name"])


class _DataOnly(pickle.Unpickler):
    """Unpickles dicts, lists, texts and numbers, and nothing that runs code."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"it wants {module_name}.{global_name}, which sentences do not need: refused")


def _read_pickle(path: str) -> list[Any]:
    try:
        with open_input(path) as file:
            content = _DataOnly(io.BytesIO(file.read())).load()
    except OSError as error:
        raise CorpusError(describe_error(path, error)) from error
    except (pickle.UnpicklingError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise CorpusError(f"{path} cannot be read: {error}") from error
    info = content.get("info") if isinstance(content, dict) else None
    if not isinstance(info, list):
        raise CorpusError(f"{path} has no list 'info', as csl2020ct_v2.pkl does")
    return info
