"""The example of an export format: kohya's sd-scripts, without any file of Framemill being edited."""

from pathlib import Path

import pytest

from preprocess.cli import main
from support.caption_runs import caption_items, make_caption_run
from support.image_files import image_bytes

ITEMS = [*caption_items("sub/a.png", "b.v2.jpg"), *caption_items("c.png", split="dev")]
FORMAT = ["--format", "examples.extending.sd_scripts"]


def test_each_image_has_its_caption_beside_it(tmp_path: Path) -> None:
    make_caption_run(tmp_path / "run", ITEMS)
    options = ["--dest", str(tmp_path / "out"), "--trigger", "gouache style", "--repeats", "5"]
    assert main(["export", str(tmp_path / "run"), *FORMAT, *options]) == 0
    files = {path.relative_to(tmp_path / "out").as_posix(): path for path in (tmp_path / "out").rglob("*.*")}
    names = ["dev/5_gouache style/c", "train/5_gouache style/b.v2", "train/5_gouache style/sub%2Fa"]
    endings = ["png", "jpg", "png"]
    assert sorted(files) == sorted(
        f"{name}.{end}" for name, ending in zip(names, endings, strict=True) for end in (ending, "txt")
    )
    assert files[f"{names[2]}.txt"].read_text() == "gouache style, a cow, <i>0</i> & Kühe"
    assert files[f"{names[1]}.jpg"].read_bytes() == image_bytes(10, "jpg")


@pytest.mark.parametrize(
    ("options", "message"),
    [([], "sub/a has no image. Run the pipeline with"), (["--repeats", "0"], "--repeats 0 must be 1 or more")],
)
def test_a_run_without_images_and_wrong_options_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    make_caption_run(tmp_path / "run", ITEMS[:1], store_images=False)
    assert main(["export", str(tmp_path / "run"), *FORMAT, "--dest", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
