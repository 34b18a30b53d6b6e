"""Output of commands: text of a corpus, run folder or server cannot control the terminal or imitate other text."""

import contextlib
import io
import json
import logging
import os
import re
import sys
import threading
import unicodedata
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from rich.live import Live

from datamodules.corpus import Item
from datamodules.loading.stream import _next
from datamodules.messages import escape_messages
from datamodules.run.activity import Activity
from datamodules.run.folder import Run
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from datamodules.samples.captions import CaptionSamples
from preprocess.cli import main
from preprocess.report.status import StatusReader, render
from preprocess.terminal import Terminal, cell, escaped_output, note
from support.caption_runs import made_caption
from support.runs import Listed

EVIL = "[red]:cow:\x1b[31m\x9b2J\x7f\r\n\u202eexe\u2028[link=x]"
SHOWN = r"[red]:cow:\x1b[31m\x9b2J\x7f\r\n\u202eexe\u2028[link=x]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two captions and a failure, whose texts are all evil; a dead rank has left its file."""
    folder = tmp_path_factory.mktemp("runs") / EVIL
    items = [Item(key, "train", EVIL, (f"{key}.png",), meta={"image": f"{EVIL}/{key}.png"}) for key in "abc"]
    run = open_or_plan(folder, Listed(items), {"samples": {"class_path": EVIL}}, ShardSize(max_items=3, min_shards=1))
    with Rank(run) as rank:
        opened = rank.lease()
        assert opened is not None
        for row, item in enumerate(opened.items):
            sample = replace(made_caption(item, prompt=EVIL), caption=f"{EVIL}\n{EVIL}")
            result = Result(row, num_frames=1, status=EVIL) if row else Result(row, reason=EVIL, reason_class=EVIL)
            rank.add(opened.shard.number, result, CaptionSamples().encode(sample) if row else {})
    _write_rank(run)
    return folder


def _write_rank(run: Run) -> None:
    activity = Activity(rank=EVIL, host=EVIL, started=0, updated=1)
    (run.work / "ranks" / "evil").write_text(json.dumps({"activity": vars(activity)}))


def misleading(text: str) -> set[str]:
    """The characters of `text` that could mislead its reader."""
    return {char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {"\n"}


@pytest.mark.parametrize(
    "command",
    [
        ["status", "O"],
        ["view", "O"],
        ["view", "O", "b"],
        ["view", "O", "nothing"],
        ["failures", "O"],
        ["failures", "O", "--class", EVIL],
        ["verify", "O"],
        ["merge", "O", "O", "--dest", "O"],
        ["export", "O", "--format", "captions-json", "--dest", "O"],
        ["status", "O", "O"],
    ],
)
def test_commands_show_what_could_mislead_escaped(
    folder: Path, command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "600")
    with contextlib.suppress(SystemExit):  # argparse's, of one argument too many
        main([str(folder) if argument == "O" else argument for argument in command])
    shown = "".join(capsys.readouterr())
    assert misleading(shown) == set()
    assert SHOWN in shown


def test_the_live_display_has_no_escape_sequence_but_its_own(folder: Path) -> None:
    terminal = Terminal(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=600)
    terminal.print(render(StatusReader(Run(folder)).read()))
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.file.getvalue())  # type: ignore[attr-defined]
    assert misleading(shown) == set()
    assert shown.count(SHOWN) == 4  # the folder, a status, a class of failures, a rank


def test_a_note_is_printed_above_the_live_display(capsys: pytest.CaptureFixture[str]) -> None:
    console = Terminal(file=io.StringIO(), force_terminal=True, width=80)
    with Live("the display", console=console, auto_refresh=False) as live:
        live.refresh()
        note("a note")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert capsys.readouterr().err == ""
    assert "\x1b[2Ka note\nthe display" in shown  # the display is erased first, and drawn again


def test_json_has_the_text_itself_on_a_line_of_ascii(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["failures", str(folder), "--json"])
    main(["status", str(folder), "--json"])
    failure, status = capsys.readouterr().out.splitlines()
    assert failure.isascii()
    assert failure.isprintable()
    assert status.isprintable()
    assert json.loads(failure)["reason"] == json.loads(failure)["reason_class"] == EVIL
    assert json.loads(status)["statuses"] == {EVIL: 2}
    assert json.loads(status)["folder"] == str(folder)


def test_output_of_libraries_is_escaped_even_if_they_exit(capsys: pytest.CaptureFixture[str]) -> None:
    @escaped_output()
    def print_and_exit() -> None:
        print(f"caption: {EVIL}")
        raise SystemExit

    with pytest.raises(SystemExit):
        print_and_exit()
    assert capsys.readouterr().out == f"caption: {SHOWN}\n".replace(r"\n", "\n")


def test_a_worker_shows_its_traceback_by_the_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: shown.append(error))
    monkeypatch.setattr(os, "_exit", shown.append)
    error = ValueError(EVIL)
    _next(map(_raise, [error]), is_worker=True)  # type: ignore[arg-type]
    assert shown == [error, 1]


def _raise(error: Exception) -> None:
    raise error


def test_a_long_text_fills_no_more_than_its_cell() -> None:
    assert cell("a" * 2001).plain == "a" * 2000 + "… 2,001 characters in all"
    assert cell("a" * 2000).plain == "a" * 2000


def test_logs_warnings_and_tracebacks_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    hooks = logging.getLogRecordFactory(), sys.excepthook, threading.excepthook
    logger = logging.Logger("evil")
    logger.addHandler(logging.StreamHandler())
    try:
        with warnings.catch_warnings():
            escape_messages()
            warnings.simplefilter("always")
            warnings.warn(EVIL, stacklevel=1)
            try:
                raise ValueError(EVIL)
            except ValueError:
                logger.exception("%s", EVIL)
                sys.excepthook(*sys.exc_info())
            thread = threading.Thread(target=int, args=[EVIL])
            thread.start()
            thread.join()
    finally:
        logging.setLogRecordFactory(hooks[0])
        sys.excepthook, threading.excepthook = hooks[1:]
    shown = capsys.readouterr().err
    assert misleading(shown) == set()
    assert shown.count(SHOWN.replace(r"\n", "\n")) == 4
    assert repr(EVIL)[1:-1] in shown  # of the thread: int() has it in its own message
