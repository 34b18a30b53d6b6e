import base64
import io
import re
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.corpora.images import Images
from datamodules.corpora.tar_images import TarImages
from datamodules.run.folder import Run
from preprocess.draw.visualize import visualize
from preprocess.report.view import view
from preprocess.terminal import Terminal
from support.caption_runs import caption_items, make_caption_run
from support.image_files import image_bytes, write_tar

ITEMS = caption_items("a.png", "sub/b.jpg", "<c>.png")


def pictures(page: Path) -> list[Image.Image]:
    found = re.findall('src="data:image/jpeg;base64,([^"]+)"', page.read_text("utf-8"))
    return [Image.open(io.BytesIO(base64.b64decode(content))) for content in found]


def grays(page: Path) -> list[int]:
    return [int(np.asarray(picture).mean().round()) for picture in pictures(page)]


def shown(run: Run, key: str | None = None) -> str:
    console = Terminal(width=200, file=io.StringIO())
    view(run, key, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_page_shows_each_caption_beside_its_stored_image(tmp_path: Path) -> None:
    run = make_caption_run(tmp_path / "run", ITEMS)
    assert visualize(run, tmp_path / "out") == [tmp_path / "out" / "samples.html"]
    assert grays(tmp_path / "out" / "samples.html") == [0, 10, 20]
    text = (tmp_path / "out" / "samples.html").read_text("utf-8")
    assert [text.index(key) for key in (">a<", ">sub/b<", ">%3Cc%3E<")] == sorted(
        text.index(key) for key in (">a<", ">sub/b<", ">%3Cc%3E<")
    )
    assert "ok   3 tokens   8x6 px   sub/b.jpg   made/cow-1B" in text


def test_nothing_of_a_text_is_taken_for_html(tmp_path: Path) -> None:
    run = make_caption_run(tmp_path / "<run>", ITEMS, model='"><script>')
    [page] = visualize(run, tmp_path / "out")
    text = page.read_text("utf-8")
    assert "a cow, &lt;i&gt;0&lt;/i&gt; &amp; Kühe" in text
    assert "Describe the &lt;b&gt;Kühe&lt;/b&gt;." in text
    for mark in ("<script>", "<i>", "<b>", "<c>", "<run>"):
        assert mark not in text


def test_what_could_mislead_a_reader_of_a_page_is_escaped(tmp_path: Path) -> None:
    run = make_caption_run(tmp_path / "run\u202e", ITEMS[:1], model="cow\u202egpj.exe\x1b\n", prompt="a\u2028b\nc\x9b")
    [page] = visualize(run, tmp_path / "out")
    text = page.read_text("utf-8")
    assert rf"{tmp_path}/run\u202e</title>" in text
    assert r"cow\u202egpj.exe\x1b\n</p>" in text
    assert '<p class="about">a\\u2028b\nc\\x9b</p>' in text
    assert text.isprintable() is False  # line feeds
    assert all(line.isprintable() for line in text.split("\n"))
    assert "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in text


def test_images_that_are_not_stored_are_shown_from_where_they_were(tmp_path: Path) -> None:
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name, value in (("a.png", 50), ("sub/b.png", 60)):
        (tmp_path / "images" / name).write_bytes(image_bytes(value, size=(900, 90)))
    items = Images(str(tmp_path / "images")).items()
    run = make_caption_run(tmp_path / "run", items, root=str(tmp_path / "images"), store_images=False)
    (tmp_path / "images" / "a.png").unlink()
    [page] = visualize(run, tmp_path / "out")
    assert grays(page) == [60]
    assert pictures(page)[0].size == (480, 48)
    assert "the image is gone: " in page.read_text("utf-8")


def test_images_in_tars_are_shown_from_there(tmp_path: Path) -> None:
    write_tar(tmp_path / "tars" / "t.tar", {"a.png": image_bytes(70), "b.png": image_bytes(80)})
    items = TarImages(str(tmp_path / "tars")).items()
    run = make_caption_run(tmp_path / "run", items, root=str(tmp_path / "tars"), store_images=False)
    [page] = visualize(run, tmp_path / "out")
    assert grays(page) == [70, 80]
    assert ["source", "t.tar/a.png"] in [line.split() for line in shown(run, "a").splitlines()]


def test_view_counts_statuses_and_lengths(tmp_path: Path) -> None:
    run = make_caption_run(tmp_path / "run", ITEMS, failed=("a",), status="truncated", num_tokens=30)
    plain = make_caption_run(tmp_path / "plain", ITEMS)
    lines = [line.split() for line in shown(run).splitlines()]
    assert ["samples", "2", "of", "2", "read"] in lines
    assert ["split", "shards", "items", "ok", "truncated", "failed", "planned", "frames"] in lines
    assert ["train", "2", "3", "0", "2", "1", "0", "2"] in lines
    assert ["train", "2", "3", "3", "0", "0", "3"] in [line.split() for line in shown(plain).splitlines()]
    assert ["characters", "22"] in lines
    assert ["tokens", "30"] in lines


def test_view_shows_a_caption_and_what_is_told_of_it(tmp_path: Path) -> None:
    run = make_caption_run(tmp_path / "run", ITEMS)
    text = shown(run, "sub/b")
    assert "\na cow, <i>1</i> & Kühe\n" in re.sub(" +\n", "\n", text)
    assert '"status": "ok"' in text
    assert ["source", "sub/b.jpg"] in [line.split() for line in text.splitlines()]


def test_view_of_a_run_whose_captions_all_failed_counts_none(tmp_path: Path) -> None:
    assert "captions" not in shown(make_caption_run(tmp_path / "run", ITEMS[:1], failed=("a",)))
