import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.corpora import csv_rows, json_rows, text_lists
from datamodules.corpora.csv_rows import Quoting
from datamodules.corpora.rows import read_rows
from datamodules.corpora.values import as_seconds
from datamodules.errors import ConfigError, CorpusError

ROWS = [{"id": "a", "n": "1"}, {"id": "ü „x“", "n": "[2, {"}, {"id": "", "n": 'q"\n,\t\\'}]
SENTENCES = ['"So there you go.', 'That ought to do it."', '"All of it."', "it's 5\" long", "", '"']


def write(path: Path, text: str, encoding: str = "utf-8") -> str:
    path.write_bytes(text.encode(encoding))
    return str(path)


def read(path: str, quoting: Quoting = "auto") -> list[Any]:
    return [row.values for row in read_rows(path, quoting=quoting)]


def write_rows(folder: Path, ending: str) -> str:
    """Write ROWS as a list of that format."""
    path = folder / f"list{ending}"
    if ending.lower() == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
        return str(path)
    if ending == ".json":
        return write(path, json.dumps(ROWS, indent=2, ensure_ascii=False))
    if ending in (".jsonl", ".ndjson"):
        return write(path, "\n\n".join(json.dumps(row) for row in ROWS))
    quoted = ['"' + value.replace('"', '""') + '"' for row in ROWS for value in row.values()]
    lines = [",".join(pair) for pair in [("id", "n"), *zip(quoted[::2], quoted[1::2], strict=True)]]
    return write(path, "\r\n".join(lines) + "\r\n\r\n")


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".ndjson", ".csv", ".parquet", ".PARQUET"])
def test_all_formats_give_the_same_rows(tmp_path: Path, ending: str) -> None:
    assert read(write_rows(tmp_path, ending)) == ROWS


def test_rows_have_their_location(tmp_path: Path) -> None:
    names = {ending: [row.where for row in read_rows(write_rows(tmp_path, ending))] for ending in (".json", ".jsonl")}
    assert names[".json"] == [f"{tmp_path}/list.json, row {number}" for number in (1, 2, 3)]
    assert names[".jsonl"] == [f"{tmp_path}/list.jsonl, line {number}" for number in (1, 3, 5)]


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv"])
def test_a_byte_order_mark_is_ignored(tmp_path: Path, ending: str) -> None:
    text = {".json": '[{"id": 1}]', ".jsonl": '{"id": 1}', ".csv": "id\n1"}[ending]
    assert [str(row["id"]) for row in read(write(tmp_path / f"list{ending}", text, "utf-8-sig"))] == ["1"]


@pytest.mark.parametrize("text", ["[]", " [ ] \n"])
def test_an_empty_json_list_has_no_rows(tmp_path: Path, text: str) -> None:
    assert read(write(tmp_path / "list.json", text)) == []


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv"])
def test_an_empty_file_has_no_rows(tmp_path: Path, ending: str) -> None:
    assert read(write(tmp_path / f"list{ending}", "")) == []


def test_nan_and_infinity_become_null(tmp_path: Path) -> None:
    assert read(write(tmp_path / "list.json", '[{"a": NaN, "b": [-Infinity, 1]}]')) == [{"a": None, "b": [None, 1]}]


@pytest.mark.parametrize("num_chars", [1, 2, 7, 64])
def test_json_is_read_in_pieces_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_chars: int) -> None:
    monkeypatch.setattr(json_rows, "_READ_CHARS", num_chars)
    objects = [{"id": f"ü{number}", "n": [number, -1.5e3, True, None, {"x": "a\\\n]}"}]} for number in range(20)]
    assert read(write(tmp_path / "list.json", json.dumps(objects, indent=1))) == objects


MALFORMED = [
    ("", r"line 1, column 1: malformed JSON: '\[' expected, not the end: give a list of objects"),
    ('{"a": 1}', r"line 1, column 1: malformed JSON: '\[' expected, not '\{': .*name it \.jsonl"),
    ('[{"a": 1}', "line 1, column 10: malformed JSON: ',' or ']' expected, not the end"),
    ('[\n {"a": 1},\n {"a": 2}\n {"a": 3}]', r"line 4, column 2: malformed JSON: ',' or '\]' expected, not '\{'"),
    ('[\n {"a": 1},\n {"a" 2}]', "line 3, column 7: malformed JSON: Expecting ':' delimiter"),
    ('[{"a": 1},\n {"a": "\n', "line 2, column 9: malformed JSON: Invalid control character at"),
    ('[{"a": 1},\n\n   {"a": "cut o', "line 3, column 10: malformed JSON: Unterminated string starting at"),
    ('[{"a": 1},]', "line 1, column 11: malformed JSON: Expecting value"),
    ('[{"a": 1}]\n{"b": 2}', "line 2, column 1: malformed JSON: there is more after the list"),
]


@pytest.mark.parametrize("num_chars", [1, 5, 1 << 20])
@pytest.mark.parametrize(("text", "match"), MALFORMED)
def test_malformed_json_fails_with_line_and_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, match: str, num_chars: int
) -> None:
    monkeypatch.setattr(json_rows, "_READ_CHARS", num_chars)
    with pytest.raises(CorpusError, match=rf"list\.json, {match}"):
        read(write(tmp_path / "list.json", text))


def test_malformed_json_is_not_read_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "_READ_CHARS", 64)
    monkeypatch.setattr(json_rows, "MAX_ROW_CHARS", 256)
    path = write(tmp_path / "list.json", '[{"a": 1}, {"a" 2}, ' + " " * 1_000_000 + "]")
    tracemalloc.start()
    with pytest.raises(
        CorpusError, match=r"line 1, column 17: .*, or its row has more than 256 characters, the limit$"
    ):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv", ".parquet"])
def test_memory_does_not_grow_with_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    monkeypatch.setattr(json_rows, "_READ_CHARS", 1 << 12)
    objects = [{"id": number, "text": f"{number:0100}"} for number in range(20_000)]
    path = tmp_path / f"list{ending}"
    if ending == ".json":
        path.write_text(json.dumps(objects))
    elif ending == ".jsonl":
        path.write_text("\n".join(map(json.dumps, objects)))
    elif ending == ".csv":
        path.write_text("id,text\n" + "\n".join(f"{row['id']},{row['text']}" for row in objects))
    else:
        pq.write_table(pa.Table.from_pylist(objects), path, row_group_size=2000)
    del objects
    tracemalloc.start()
    assert sum(int(row.values["text"]) for row in read_rows(str(path))) == sum(range(20_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000  # of more than 2 MB of text


def problems(path: str) -> list[str | None]:
    return [row.problem for row in read_rows(path)]


def test_a_malformed_line_fails_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "list.jsonl", '{"a": 1}\n\n {"a" 2}\n{"a": 3}\n')
    assert problems(path) == [None, "malformed JSON at column 7: Expecting ':' delimiter", None]
    assert read(path) == [{"a": 1}, {}, {"a": 3}]
    assert [row.where for row in read_rows(path)][1] == f"{path}, line 3"


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_a_row_that_is_not_an_object_fails_alone(tmp_path: Path, ending: str) -> None:
    text = '[{"a": 1}, ["b"], {}]' if ending == ".json" else '{"a": 1}\n["b"]\n{}'
    assert problems(write(tmp_path / f"list{ending}", text)) == [None, "it is not an object {…}: ['b']", None]


@pytest.mark.parametrize("row", ["a,b", "a,b,c,d"])
def test_a_row_with_more_or_fewer_fields_than_the_header_fails_alone(tmp_path: Path, row: str) -> None:
    problem = f"it has {row.count(',') + 1} fields, and the header 3: does a field contain a separator?"
    assert problems(write(tmp_path / "list.csv", f"id,text,n\na,b,c\n{row}\nc,d,e\n")) == [None, problem, None]


@pytest.mark.parametrize("text", ['b,"so,\nc",y\n', "a,so\nthere\n", 'a,"so\n'])
def test_a_row_that_may_be_part_of_another_stops_the_list(tmp_path: Path, text: str) -> None:
    with pytest.raises(
        CorpusError, match=r"list\.csv, line [1234]( is malformed|: it has [13] fields, and the header 2\. It may be)"
    ):
        read(write(tmp_path / "list.csv", f"id,text\na,x\n{text}"))


def test_a_text_may_be_longer_than_the_default_limit_of_the_csv_module(tmp_path: Path) -> None:
    text = "x" * 131_073
    assert read(write(tmp_path / "list.csv", f"id,text\na,{text}\n")) == [{"id": "a", "text": text}]


def test_a_stray_quote_fails_and_swallows_no_rows(tmp_path: Path) -> None:
    hint = r"; if quotes are text in it, set --data\.quoting none"
    with pytest.raises(CorpusError, match=rf"after .*list\.csv, line 2 is malformed: ',' expected after '\"'{hint}"):
        read(write(tmp_path / "list.csv", 'id,text\na,x\nb,"so" he said\nc,y\n'))
    with pytest.raises(CorpusError, match=rf"after .*list\.csv, line 2 is malformed: unexpected end of data{hint}"):
        read(write(tmp_path / "list.csv", 'id,text\na,x\nb,"so he said\nc,y\n'))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(("name", "quoting"), [("list.tsv", "auto"), ("list.TSV", "none"), ("list.csv", "none")])
def test_without_quoting_a_row_is_a_line_and_a_text_keeps_its_quotes(
    tmp_path: Path, name: str, quoting: Quoting, end: str
) -> None:
    delimiter = "," if name.endswith("csv") else "\t"
    lines = [delimiter.join(("id", "text")), "", *(f"{i}{delimiter}{text}" for i, text in enumerate(SENTENCES)), ""]
    path = write(tmp_path / name, end.join(lines))
    assert [row["text"] for row in read(path, quoting)] == SENTENCES
    assert [row.where for row in read_rows(path, quoting=quoting)][:2] == [f"{path}, line 3", f"{path}, line 4"]


def test_a_tsv_that_may_be_quoted_is_read_once_quoting_is_set(tmp_path: Path) -> None:
    path = write(tmp_path / "list.tsv", 'id\ttext\na\t"she said ""so\tthere"""\nb\tx\n')
    with pytest.raises(CorpusError, match=r"list\.tsv, line 2: it has 3 fields, and the header 2"):
        read(path)
    assert [row["text"] for row in read(path, "csv")] == ['she said "so\tthere"', "x"]
    path = write(tmp_path / "list.tsv", 'id\ttext\na\t"she said ""so there"""\n')
    with pytest.raises(
        CorpusError, match=r"list\.tsv, line 2: .*so there.* looks quoted as in CSV\. Set --data\.quoting"
    ):
        read(path)
    assert read(path, "none") == [{"id": "a", "text": '"she said ""so there"""'}]
    path = write(tmp_path / "list.tsv", '"id"\t"text"\n"a"\t"so there"\n')
    with pytest.raises(CorpusError, match=r"list\.tsv, line 1: '\"id\"' looks quoted as in CSV"):
        read(path)
    assert read(path, "csv") == [{"id": "a", "text": "so there"}]


@pytest.mark.parametrize("end", ["\n", "\r"])
def test_a_field_of_a_tsv_with_a_line_break_fails(tmp_path: Path, end: str) -> None:
    path = write(tmp_path / "list.tsv", f'id\ttext\na\t"so{end}there"\n')
    with pytest.raises(CorpusError, match=r"list\.tsv, line 3: 'so\\[nr]there' has a line break"):
        read(path, "csv")
    with pytest.raises(CorpusError, match=r"list\.tsv, line (2 has a carriage return|3: it has 1 fields)"):
        read(path)


@pytest.mark.parametrize(("between", "num_lines"), [("", 2), ("\n", 3), ("\n\n", 4)])
def test_lines_of_a_csv_that_could_be_rows_are_not_merged(tmp_path: Path, between: str, num_lines: int) -> None:
    rows = f'a,a.mp4,"So there.\n{between}b,b.mp4,That ought to do it."\nc,c.mp4,x\n'
    path = write(tmp_path / "list.csv", f"id,file,text\n{rows}")
    problem = rf"list\.csv, line {num_lines + 1}: its field in quotes has {num_lines} lines, each of which could be"
    with pytest.raises(CorpusError, match=problem):
        read(path)
    assert [row["text"] for row in read(path, "csv")] == [f"So there.\n{between}b,b.mp4,That ought to do it.", "x"]
    assert [row["text"] for row in read(path, "none")] == ['"So there.', 'That ought to do it."', "x"]
    path = write(tmp_path / "list.csv", 'id,file,text\na,a.mp4,"So, so\nthere."\n')
    assert [row["text"] for row in read(path)] == ["So, so\nthere."]


@pytest.mark.parametrize(
    "text",
    ["id;text\na;so, there\n", 'id, text\na, "so, there"\n', " id \ttext \na\tso, there", 'id,text\ra,"so, there"'],
)
def test_other_separators_and_blanks_in_the_header_give_the_same_rows(tmp_path: Path, text: str) -> None:
    assert read(write(tmp_path / "list.csv", text)) == [{"id": "a", "text": "so, there"}]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv", ".tsv"])
def test_utf16_with_a_byte_order_mark_is_read(tmp_path: Path, ending: str, encoding: str) -> None:
    text = {".json": '[{"id": "ü"}]', ".jsonl": '{"id": "ü"}'}.get(ending, "id\r\nü\r\n")
    mark = "" if encoding == "utf-16" else "\ufeff"
    assert read(write(tmp_path / f"list{ending}", mark + text, encoding)) == [{"id": "ü"}]


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_utf16_without_a_byte_order_mark_fails(tmp_path: Path, ending: str) -> None:
    with pytest.raises(CorpusError, match=r"has zero bytes in its header: save it as UTF-8"):
        read(write(tmp_path / f"list{ending}", "id\na\n", "utf-16-le"))


def test_a_carriage_return_inside_a_row_fails(tmp_path: Path) -> None:
    for row in ("a,1,so\rthere", "a,1,so\rb,2,there"):
        with pytest.raises(
            CorpusError, match=r"list\.csv, line 2: some rows end by a carriage return, others by a line feed"
        ):
            read(write(tmp_path / "list.csv", f"id,n,text\n{row}\n"))
    assert read(write(tmp_path / "list.csv", "id,n\r\r\na,1\r\r\n")) == [{"id": "a", "n": "1"}]
    assert read(write(tmp_path / "list.csv", 'id,n\na,"so\rthere"\n')) == [{"id": "a", "n": "so\rthere"}]
    with pytest.raises(CorpusError, match=r"list\.tsv, line 2 has a carriage return within"):
        read(write(tmp_path / "list.tsv", "id\ttext\tn\na\tso\rthere\t1\n"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (
            '{"videos": [{"id": 1}], "sentences": []}',
            r"an object with 'videos', 'sentences' \(MSR-VTT's layout\)\. Write",
        ),
        (
            '{"info": {"a": 1}, "images": [], "annotations": []}',
            r"an object with 'info', 'images', 'annotations' \(COCO's layout\)",
        ),
        ('{"data": [{"id": 1}, {"id"', r"an object with 'data'\. Write the list of objects in it to a file of its own"),
        ("{}", "an object with nothing"),
    ],
)
def test_the_message_describes_an_object_that_wraps_the_list(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(
        CorpusError, match=rf"line 1, column 1: malformed JSON: '\[' expected, not '\{{': it is {match}"
    ):
        read(write(tmp_path / "list.json", text))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0), (1.5, 1.5), (" 12.5", 12.5), ("01:02:03", 3723.0), ("1:02:03.25", 3723.25), ("00:00:02,500", 2.5),
        ("90:00", 5400.0), ("1:02", 62.0), ("", None), (None, None), ("nan", None), ("NaN", None),
    ],
)  # fmt: skip
def test_a_time_is_seconds_or_a_clock_time_or_missing(value: float | str | None, seconds: float | None) -> None:
    assert as_seconds("start", value) == seconds


@pytest.mark.parametrize(
    "value",
    [-1, "-0.1", "x", True, [1], "inf", 10**400, "1:75:00", "1:75", "00:00:10:12", "1:-2", "1,5", "1:2:", ":10"],
)
def test_an_invalid_time_fails(value: Any) -> None:
    with pytest.raises(CorpusError, match=r"'start' is .*: give seconds from 0 on, as a number or HH:MM:SS\.mmm"):
        as_seconds("start", value)


def test_a_header_with_a_repeated_name_fails(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"list\.csv has 2 columns 'id': rename all but one"):
        read(write(tmp_path / "list.csv", "id,text,id\n"))


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv"])
def test_a_list_that_is_not_utf8_fails(tmp_path: Path, ending: str) -> None:
    with pytest.raises(CorpusError, match=rf"what comes after the beginning of .*list{ending} is not UTF-8: invalid"):
        read(write(tmp_path / f"list{ending}", '[{"id": "ü"}]', "latin-1"))


def test_a_damaged_parquet_file_fails(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"what comes after the beginning of .*list\.parquet is malformed: Parquet"):
        read(write(tmp_path / "list.parquet", "PAR1 no such thing PAR1"))


def test_a_column_that_json_cannot_hold_fails_unless_it_is_left_out(tmp_path: Path) -> None:
    table = {"id": [1], "jpg": [b"\xff"], "scores": [[{"a": 0.5}]], "kind": pa.array(["x"]).dictionary_encode()}
    pq.write_table(pa.table(table), tmp_path / "list.parquet")
    with pytest.raises(CorpusError, match=r"the column 'jpg' is binary, which JSON cannot hold: leave it out"):
        read(str(tmp_path / "list.parquet"))
    [row] = read_rows(str(tmp_path / "list.parquet"), ["id", "scores", "kind", "no such column"])
    assert row.values == {"id": 1, "scores": [{"a": 0.5}], "kind": "x"}


def test_columns_of_parquet_that_json_cannot_hold_fail(tmp_path: Path) -> None:
    twice = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    deep = pa.int64()
    for _ in range(400):
        deep = pa.list_(deep)
    message = r"the column 'x' is .*, which JSON cannot hold: leave it out|too deeply nested"  # the latter: pyarrow 26
    for column in (twice, pa.array([None], deep)):
        pq.write_table(pa.table({"x": column}), tmp_path / "a.parquet", store_schema=False)
        with pytest.raises(CorpusError, match=message):
            list(read_rows(str(tmp_path / "a.parquet")))


def test_nan_in_maps_becomes_null(tmp_path: Path) -> None:
    table = pa.table({"x": pa.array([[("k", float("nan"))]], pa.map_(pa.string(), pa.float64()))})
    pq.write_table(table, tmp_path / "a.parquet")
    assert [row.values for row in read_rows(str(tmp_path / "a.parquet"))] == [{"x": [["k", None]]}]


def test_an_unknown_ending_fails(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"list\.xlsx has the ending '\.xlsx': give a list in one of \.json, "):
        read(write(tmp_path / "list.xlsx", ""))


@pytest.mark.parametrize("ending", [".json", ".parquet"])
def test_a_missing_list_fails(tmp_path: Path, ending: str) -> None:
    with pytest.raises(CorpusError, match=rf"list{ending} cannot be read: .*No such file"):
        read(str(tmp_path / f"list{ending}"))


@pytest.mark.parametrize(
    ("value", "message"),
    [("[" * 100_000, "nested more than 100 deep"), ("9" * 5000, "a whole number of more than 4,300 digits, the limit")],
)
def test_json_above_a_limit_of_python_fails_with_its_line(tmp_path: Path, value: str, message: str) -> None:
    with pytest.raises(CorpusError, match=rf"list\.json, line 2.*{message}"):
        read(write(tmp_path / "list.json", f'[{{"a": 1}},\n{{"a": {value}}}'))
    [_, problem, after] = problems(write(tmp_path / "list.jsonl", f'{{"a": 1}}\n{{"a": {value}}}\n{{}}'))
    assert re.search(message, problem or "")
    assert after is None


def test_nan_and_infinity_in_nested_values_become_null(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1e999, "b": [NaN, 1.5], "c": {"d": -Infinity}}')
    assert read(str(tmp_path / "a.jsonl")) == [{"a": None, "b": [None, 1.5], "c": {"d": None}}]
    pq.write_table(pa.table({"a": [float("nan"), 1.0, float("inf")]}), tmp_path / "a.parquet")
    assert [row["a"] for row in read(str(tmp_path / "a.parquet"))] == [None, 1.0, None]


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
@pytest.mark.parametrize("value", ["[" * 900 + "]" * 900, '{"a":' * 101 + "1" + "}" * 101])
def test_a_row_that_is_nested_too_deeply_fails_alone(tmp_path: Path, ending: str, value: str) -> None:
    lines = ['{"a": 1}', f'{{"a": {value}}}', '{"a": 3}']
    path = write(tmp_path / f"list{ending}", "\n".join(lines) if ending == ".jsonl" else f"[{','.join(lines)}]")
    assert problems(path) == [None, "its values are nested more than 100 deep, the limit", None]
    assert read(path)[2] == {"a": 3}


def test_a_row_may_be_nested_up_to_the_limit(tmp_path: Path) -> None:
    value = json.loads("[" * 100 + "1" + "]" * 100)
    assert read(write(tmp_path / "list.jsonl", json.dumps({"a": value}))) == [{"a": value}]


def test_a_header_of_100_000_columns_is_read_fast(tmp_path: Path) -> None:
    """Counting each of 100,000 names would compare 5 billion pairs."""
    names = [f"c{number}" for number in range(100_000)]
    values = [str(number) for number in range(100_000)]
    path = write(tmp_path / "list.csv", f"{','.join(names)}\n{','.join(values)}\n")
    assert read(path) == [dict(zip(names, values, strict=True))]
    [row] = read_rows(path)
    with pytest.raises(CorpusError, match=r"it has no 'video', but 'c0', 'c1', .*'c7', …: see --data.columns$"):
        row.require("video", hint=": see --data.columns")


def test_a_row_of_a_million_fields_fails_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", "a,b\n" + "," * 1_000_000 + "\n1,2\n")
    assert problems(path) == ["it has 1000001 fields, and the header 2: does a field contain a separator?", None]


@pytest.mark.parametrize(
    ("ending", "text", "problem"),
    [
        (".jsonl", '{"a": 1}\n{"a": "%s"}', "list.jsonl, line 2: it has more than 1,000 characters, the limit"),
        (".csv", "%s\n1", "list.csv, line 1: it has more than 1,000 characters, the limit"),
        (".csv", "a,b\n1,%s", "list.csv, line 2: it has more than 1,000 characters, the limit"),
        (".tsv", "a\tb\n1\t%s", "list.tsv, line 2: it has more than 1,000 characters, the limit"),
    ],
)
def test_an_overlong_line_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, text: str, problem: str
) -> None:
    monkeypatch.setattr(text_lists, "MAX_ROW_CHARS", 1000)
    path = write(tmp_path / f"list{ending}", text % ("x" * 3_000_000))
    tracemalloc.start()
    with pytest.raises(CorpusError, match=re.escape(problem)):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000


@pytest.mark.parametrize("field", ['"' + "x\n" * 1_000_000, '"x\n",' * 500_000])
def test_an_overlong_row_of_several_lines_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    monkeypatch.setattr(csv_rows, "MAX_ROW_CHARS", 1000)
    path = write(tmp_path / "list.csv", f"a,b\n1,2\n{field}")
    tracemalloc.start()
    with pytest.raises(
        CorpusError, match=r"after .*list\.csv, line 2 is malformed: a row has more than 1,000 characters"
    ):
        read(path, "csv")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000
