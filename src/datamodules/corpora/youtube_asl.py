"""YouTube-ASL (Uthus et al., NeurIPS 2023): American Sign Language, captions of videos on YouTube.

The corpus is a list of videos, `youtube_asl_video_ids.txt` with an id a line
(https://github.com/google-research/google-research/tree/master/youtube_asl); videos and captions are downloaded from
YouTube, for example by `yt-dlp --write-subs --sub-langs en`. Each caption is a sentence:

| file                       | meaning                                                                     |
|----------------------------|-----------------------------------------------------------------------------|
| `{id}.mp4` below the root  | the video                                                                   |
| `{id}.en.vtt` or the like  | its captions, in a format of `captions`; their text becomes `text`          |

`sentence_id` is the video's id and the number of the caption, from 1: `a1b2c3d4e5F-0001`. The corpus has no splits.
"""

from collections.abc import Iterator
from typing import ClassVar

from datamodules.corpora.captions import read_captions
from datamodules.corpora.row import Row
from datamodules.corpora.sentences import SentenceColumns, Sentences
from datamodules.corpora.text_lists import read_list
from datamodules.errors import ConfigError, CorpusError


class YouTubeAsl(Sentences):
    """The captions of YouTube-ASL, in the order of the list. A video without captions fails alone.

    Args:
        root: folder or URL of the videos.
        video_ids: the list of videos.
        captions: path or URL of the captions, such as `/data/captions/{id}.en.vtt`; `{id}` stands for the video's.
        max_items: list at most this many captions, from the beginning; None: all.

    Raises:
        ConfigError: captions has no `{id}`.
        CorpusError: the list cannot be read.
    """

    language: ClassVar[str] = "ase"
    columns: ClassVar[SentenceColumns] = SentenceColumns(
        video="video", id="id", start="start", stop="stop", text="text"
    )

    def __init__(self, root: str, video_ids: str, captions: str, max_items: int | None = None) -> None:
        if "{id}" not in captions:
            raise ConfigError(f"--data.captions {captions}: write {{id}} where the ids of the videos are")
        super().__init__(root, {"train": video_ids}, max_items)
        self._captions = captions

    def rows(self, path: str) -> Iterator[Row]:
        """Yield a row for each caption of the videos in the list."""
        for line, video in read_list(path, "--data.video_ids"):
            captions = self._captions.replace("{id}", video)
            try:
                for number, caption in enumerate(read_captions(captions), 1):
                    name = f"{video}-{number:04d}"
                    values = {"video": video, "id": name, **caption._asdict()}
                    yield Row(f"{captions}, caption {name}", values)
            except CorpusError as error:
                yield Row(f"{path}, line {line}", {}, f"the captions of {video}: {error}")
