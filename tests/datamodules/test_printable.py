"""Text of others is shown so that it can neither steer a terminal nor look like another text."""

import json
import unicodedata

import pytest

from datamodules.printable import json_line, printable, printable_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b]8;;http://x\x07", r"\x1b[31mred\x1b]8;;http://x\x07"),
        ("a\nb\r\tc\x00\x7f", r"a\nb\r\tc\x00\x7f"),
        ("\x9b31m\x85", r"\x9b31m\x85"),
        ("gpj\u202e.exe \u2066x\u2069 \u061c\u200e\u200f", r"gpj\u202e.exe \u2066x\u2069 \u061c\u200e\u200f"),
        ("a\u2028b\u2029", r"a\u2028b\u2029"),
        ("a\u200bb\ufeff\u00ad\u2060\ufff9", r"a\u200bb\ufeff\xad\u2060\ufff9"),
        ("\U000e0041\ud800\udcff\ue000", r"\U000e0041\ud800\udcff\ue000"),
        ("a\u200db \u200d \u200c", r"a\u200db \u200d \u200c"),
        ("\u202e\u200d", r"\u202e\u200d"),
        ("👩\u200d\u200d👩", "👩\u200d\\u200d👩"),
        ("e" + "\u0301" * 9 + "e\u0301", "e" + "\u0301" * 8 + r"\u0301" + "e\u0301"),
    ],
)
def test_what_could_mislead_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a b\\n [red]",
        "汽车 Über ﬁ ½",
        "👨\u200d👩\u200d👧 ❤️ 👍🏽",
        "می\u200cخواهم",
        "क्\u200dष",
        "non\u00a0breaking\u3000wide",
    ],
)
def test_text_of_all_scripts_stays(text: str) -> None:
    assert printable(text) == printable_lines(text) == text


def test_nothing_that_steers_a_terminal_is_left() -> None:
    kept = printable("".join(map(chr, [*range(0x10000), *range(0xE0000, 0xE0200)])))
    assert {unicodedata.category(char) for char in set(kept) - set("\u200c\u200d")}.isdisjoint(
        {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    )


def test_lines_keep_their_ends() -> None:
    assert printable_lines("a\x1b\n\u202eb\r\n") == "a\\x1b\n\\u202eb\\r\n"


def test_json_is_one_line_of_ascii_of_the_same_value() -> None:
    value = {"a\n\x7f\x9b": "\u202e\u2028 汽 🚗 \ud800"}
    line = json_line(value)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == value
