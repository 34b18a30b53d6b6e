"""The page of a report in a real browser, from `file://`: filters, sorting, flags, keyboard, themes, hostile texts."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datamodules.corpus import Item
from datamodules.run.rank import Rank
from preprocess.cli import main
from support.caption_runs import caption_items, make_caption_run
from support.keypoint_runs import MadeItems, make_run
from support.run_paths import folder_of
from support.track_runs import make_track_run, write_videos

HOSTILE = "</script><img src=x onerror=\"document.title='broken'\"><b>bold</b> \u202egpj.exe"
KIND = {"samples": {"class_path": "datamodules.samples.keypoints.KeypointSamples"}}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium. Where CI is set it must be installed; elsewhere these tests are skipped without it."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        assert "CI" not in os.environ, "Chromium is not installed, and CI must test the page in it"
        pytest.skip("needs Chromium: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """A function that makes the report of a run and opens its page; what the page logs or requests is checked."""
    contexts, faults, requests = [], [], []

    def open_page(folder: Path, *arguments: str, **options: Any) -> Any:
        assert main(["report", str(folder), *arguments]) == 0
        contexts.append(browser.new_context(accept_downloads=True, **options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("requestfailed", lambda request: faults.append(request.url))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((folder / "report" / "index.html").as_uri())
        wait_until_drawn(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []
    assert [url for url in requests if not url.startswith(("file:", "blob:"))] == []


def wait_until_drawn(page: Any) -> None:
    """Wait for a tile of this document: one script draws all sections at once, so the others are there as well."""
    page.locator("html:not([data-left]) .tile").first.wait_for()


def reload(page: Any) -> None:
    """Reload the page with what it has stored, and wait until it is drawn.

    A Chromium that starved for CPU was seen to empty the storage of `file://` on reload, and `page.reload()` to return
    before the new document was there.
    """
    stored = page.evaluate("({...localStorage})")
    page.add_init_script(f"Object.assign(localStorage, {json.dumps(stored)})")
    page.evaluate("document.documentElement.dataset.left = ''")
    page.reload()
    wait_until_drawn(page)


def names(page: Any, selector: str = ".sample .name") -> list[str]:
    return list(page.locator(selector).all_text_contents())


def captions(tmp_path: Path, count: int = 6) -> Path:
    """A run of captions: `train/a0` …; the second and the last item failed."""
    items = caption_items(*(f"train/a{number}.png" for number in range(count)))
    run = make_caption_run(tmp_path / "captions", items, failed=(items[1].key, items[-1].key))
    return folder_of(run)


def test_the_gallery_is_filtered_by_text_status_and_a_brushed_histogram(tmp_path: Path, open_page: Any) -> None:
    make_run(tmp_path / "run", MadeItems({"train": 8, "dev": 2}), failed=("train/v2",), fingerprint=KIND, per_shard=5)
    page = open_page(tmp_path / "run")
    assert len(names(page)) == 10

    page.get_by_label("Search samples").fill("train/v")
    assert sorted(names(page)) == [f"train/v{number}" for number in range(8)]
    page.get_by_label("Search samples").fill("")
    page.get_by_label("split", exact=True).select_option("dev")
    assert sorted(names(page)) == ["dev/v0", "dev/v1"]
    page.get_by_label("split", exact=True).select_option("")
    page.get_by_label("status", exact=True).select_option("decode")
    assert names(page) == ["train/v2"]
    page.get_by_label("status", exact=True).select_option("")

    page.get_by_label("least num frames").fill("4")  # item i has 1 + i % 4 frames
    page.get_by_label("least num frames").press("Enter")
    assert sorted(names(page)) == ["train/v3", "train/v7"]
    histogram = page.get_by_label("Histogram of num frames")
    box = histogram.bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 40)  # bins 1 to 5: 1 to 2.2 frames
    page.mouse.up()
    assert sorted(names(page)) == ["dev/v1", "train/v1", "train/v5"]  # begins 2 px right of 1 frame
    page.locator(".plot.brushed").get_by_text("All", exact=True).click()
    assert len(names(page)) == 10


def test_each_bar_of_a_histogram_has_the_same_number_of_bins(tmp_path: Path, open_page: Any) -> None:
    make_run(tmp_path / "run", MadeItems({"train": 4}), fingerprint=KIND)  # of 1 to 4 frames
    page = open_page(tmp_path / "run", "--samples", "0")
    html = tmp_path / "run" / "report" / "index.html"
    text, num_plots = re.subn(
        r'"counts": \[1, 1, 1, 1\], "greatest": 4.0(.*?)"num_values": 4',
        rf'"counts": {[1] * 100}, "greatest": 100.0\1"num_values": 100',
        html.read_text("utf-8"),
    )
    assert num_plots == 1
    html.write_text(text, "utf-8")
    reload(page)
    bars = page.get_by_label("Histogram of num frames").locator("rect title").all_text_contents()
    assert bars == [f"{start} to {start + 2}: 2" for start in range(1, 100, 2)]
    box, ends = page.get_by_label("Histogram of num frames").bounding_box(), []
    for bar in page.get_by_label("Histogram of num frames").locator("rect").all():
        ends.append(bar.bounding_box()["x"] + bar.bounding_box()["width"])
    assert box["x"] < max(ends) <= box["x"] + box["width"]  # the greatest values are in the picture


def test_failures_are_searched_sorted_and_have_their_retry_command(tmp_path: Path, open_page: Any) -> None:
    folder = captions(tmp_path)
    page = open_page(folder)
    rows = "#failures tbody tr td:first-child"
    assert names(page, rows) == ["train/a1", "train/a5"]
    page.get_by_role("button", name="item", exact=True).click()
    page.get_by_role("button", name="item", exact=True).click()
    assert names(page, rows) == ["train/a5", "train/a1"]
    command = page.locator("#failures .command code")
    assert command.text_content() == f"preprocess retry {folder}"
    page.get_by_role("button", name="decode 2").click()
    assert command.text_content() == f"preprocess retry {folder} --class decode"
    page.get_by_label("Search failures").fill("a5")
    assert names(page, rows) == ["train/a5"]
    assert command.text_content() == f"preprocess retry {folder} --keys failed.txt"
    with page.expect_download() as started:
        page.get_by_role("button", name="Save 1 keys as failed.txt").click()
    assert Path(started.value.path()).read_text() == "train/a5\n"


def test_flags_are_set_by_mouse_and_keyboard_saved_and_kept(tmp_path: Path, open_page: Any) -> None:
    folder = captions(tmp_path)
    page = open_page(folder)
    shown = names(page)
    page.get_by_label(f"Flag {shown[0]}").click()
    page.get_by_label(f"Open {shown[1]}").click()
    page.keyboard.press("f")
    page.keyboard.press("Escape")
    with page.expect_download() as started:
        page.get_by_role("button", name="Save flagged.txt").click()
    assert started.value.suggested_filename == "flagged.txt"
    assert Path(started.value.path()).read_text() == f"{shown[0]}\n{shown[1]}\n"
    assert names(page, "#gallery .command code")[0] == f"preprocess retry {folder} --keys flagged.txt"

    reload(page)
    assert page.locator(".sample.flagged").count() == 2
    page.get_by_role("button", name="Clear flags").click()
    assert page.locator(".sample.flagged").count() == 0


def test_flags_are_not_those_of_another_run_that_was_in_the_folder(tmp_path: Path, open_page: Any) -> None:
    folder = captions(tmp_path)
    page = open_page(folder)
    page.get_by_label(f"Flag {names(page)[0]}").click()
    html = folder / "report" / "index.html"
    html.write_text(html.read_text("utf-8").replace("captions.CaptionSamples", "captions.CaptionSamplez"), "utf-8")
    reload(page)
    assert page.locator(".sample.flagged").count() == 0


def test_the_viewer_plays_videos_and_goes_on_by_the_keyboard(tmp_path: Path, open_page: Any) -> None:
    corpus = write_videos(tmp_path / "corpus", "train/a", "train/b", "train/c")
    run = make_track_run(tmp_path / "run", corpus, failed=("train/c",))
    page = open_page(folder_of(run))
    first, second, third = names(page)
    page.get_by_label(f"Open {first}").press("Enter")
    title = page.locator("#viewer h3")
    assert title.text_content() == first
    page.keyboard.press("ArrowRight")
    assert title.text_content() == second
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")  # the last one stays
    assert title.text_content() == third
    page.keyboard.press("ArrowLeft")
    assert title.text_content() == second
    page.keyboard.press("ArrowLeft")

    while title.text_content() == "train/c":  # it failed, and has no video
        page.keyboard.press("ArrowRight")
    video = page.locator("#viewer video")
    video.evaluate("video => video.readyState >= 2 || new Promise(done => { video.onloadeddata = done })")
    assert video.evaluate("video => [video.videoWidth, video.videoHeight, video.error]") == [96, 64, None]
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()


def test_hostile_texts_are_shown_as_they_are(tmp_path: Path, open_page: Any) -> None:
    item = Item("train/a", "train", "a", ("x.png",), meta={"image": "a.jpg", "note": HOSTILE})
    bad = Item("train/bad", "train", HOSTILE, ("x.png",), meta={"image": "b.jpg"})
    run = make_caption_run(tmp_path / "<b>run", [item, bad], failed=("train/bad",), prompt=HOSTILE)
    page = open_page(folder_of(run))
    page.wait_for_selector(".sample")
    assert "broken" not in page.title()
    assert page.locator("b", has_text="bold").count() == 0
    assert r"\u202egpj.exe" in page.locator("#failures tbody").text_content()
    page.get_by_label("Open train/a").click()
    assert "<b>bold</b>" in page.locator("#viewer .side").text_content()
    assert page.locator("#viewer img[src=x]").count() == 0


def test_the_timeline_names_shards_and_lost_ranks(tmp_path: Path, open_page: Any) -> None:
    run = make_run(tmp_path / "run", MadeItems({"train": 6}), fingerprint=KIND, max_shards=2)
    with Rank(run) as rank:
        rank.lease()
        page = open_page(tmp_path / "run")
        canvas = page.locator("#timeline canvas").first
        assert canvas.get_attribute("aria-label") == "2 bars of 2 ranks"
        canvas.hover(position={"x": 20, "y": 32})
        tip = page.locator("#tip")
        assert tip.is_visible()
        assert tip.text_content().splitlines()[1] == "ended"
        canvas.hover(position={"x": 20, "y": 62})
        assert tip.text_content().splitlines()[1].startswith("at work, last seen ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_theme_and_fits_a_narrow_window(scheme: Any, tmp_path: Path, open_page: Any) -> None:
    page = open_page(captions(tmp_path), color_scheme=scheme, viewport={"width": 380, "height": 800})
    background = "getComputedStyle(document.body).backgroundColor"
    dark, light = "rgb(18, 21, 26)", "rgb(245, 246, 248)"
    assert page.evaluate(background) == (dark if scheme == "dark" else light)
    page.locator("#theme").click()
    assert page.evaluate(background) == (light if scheme == "dark" else dark)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_two_runs_are_side_by_side(tmp_path: Path, open_page: Any) -> None:
    make_run(tmp_path / "one", MadeItems({"train": 4}), fingerprint=KIND)
    make_run(tmp_path / "two", MadeItems({"train": 6}), failed=("train/v0",), fingerprint=KIND)
    page = open_page(tmp_path / "one", "--compare", str(tmp_path / "two"))
    tiles = page.locator(".tile")
    assert [tiles.nth(index).inner_text().split("\n") for index in (0, 2)] == [
        ["4", "items", "6"],
        ["0", "failed", "1"],
    ]
    assert page.locator(".plot polyline").count() >= 1
