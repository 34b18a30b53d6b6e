import re
from pathlib import Path
from typing import Any

import pytest

from datamodules.errors import ConfigError
from datamodules.run.bucket import Bucket
from datamodules.run.store import Folder
from preprocess.job.output import Output


def test_a_run_is_in_a_folder_or_a_bucket(tmp_path: Path) -> None:
    assert isinstance(Output(str(tmp_path / "run")).store(), Folder)
    store = Output("s3://bucket/run", scratch=str(tmp_path)).store()
    assert isinstance(store, Bucket)
    assert store.work.is_relative_to(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dir": "ftp://host/run"},
            "--output.dir ftp://host/run: ftp:// is not supported. Give a local folder, or s3://",
        ),
        ({"dir": "s3://"}, "--output.dir s3:// does not name a bucket"),
        (
            {"dir": "run", "scratch": "/scratch"},
            "--output.scratch /scratch is for runs in a bucket. The run in run keeps",
        ),
    ],
)
def test_refuses_what_is_no_place_for_a_run(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        Output(**options)
