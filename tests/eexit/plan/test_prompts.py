"""Prompt files: prompts are read unchanged, and each kind of bad file has its error message."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eexit.errors import UsageError
from eexit.plan.prompts import prompts_of, read_prompts
from eexit.plan.sweep_config import Prompt

HOSTILE = [
    "</script><script>alert(1)</script>",
    "bell \x07, escape \x1b[31m, form feed \x0c, next line \x85",
    "right-to-left \u202e override, line \u2028 and paragraph \u2029 separators",
    "🧑‍🚀 family of emoji 🏳️‍🌈",
    "x" * 10_000,
    ' "quoted", with; separators\tand spaces ',
]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_blank_lines_and_byte_order_marks_are_no_prompts_and_hostile_ones_are_not_changed(tmp_path: Path) -> None:
    path = write(tmp_path / "hostile.txt", "\ufeffone\r\n\r\n  \r\n" + "\n".join(HOSTILE) + "\n")
    expected = [(f"{n}", text) for n, text in enumerate(["one", *HOSTILE])]
    assert [(prompt.id, prompt.prompt) for prompt in read_prompts(path)] == expected


COLUMNS = ("id", "system", "answer", "answer_pattern", "prefiller", "max_new_tokens", "steps")
ROWS: list[dict[str, Any]] = [
    {"id": "a", "system": "Be brief.", "answer": "4", "answer_pattern": "\\d", "prefiller": " First,\n"},
    {"id": 77, "answer": "1,5", "max_new_tokens": 7, "steps": 3},
    {"id": "c", "answer": 0.5},
]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_rows_arrive_unchanged(tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str) -> None:
    path, texts = tmp_path / f"full{ending}", [*HOSTILE, "two\nlines", "dos\r\nlines", "old\rmac", "", "last"]
    given = [{"prompt": f"{n}?", **row} for n, row in enumerate(ROWS)] + [{"prompt": text} for text in texts]
    rows: list[dict[str, Any]] = [{**dict.fromkeys(COLUMNS), **row, "Anwser": "x"} for row in given]
    if ending == ".jsonl":
        write(path, "\n".join(map(json.dumps, rows)))
    elif ending == ".csv":
        frame = pd.DataFrame(rows).astype({"max_new_tokens": "Int64", "steps": "Int64"})
        frame.to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC)
    else:
        in_text = [{**row, **{name: f"{row[name]}" for name in ("id", "answer") if row[name]}} for row in rows]
        pd.DataFrame(in_text).to_parquet(path)  # pandas makes 7 a 7.0
    expected = [{"id": f"{n}", **row} for n, row in enumerate(given)]
    expected = [{**row, **{name: str(row[name]) for name in ("id", "answer") if name in row}} for row in expected]
    assert read_prompts(path) == tuple(Prompt(**row) for row in expected)
    assert "not read: Anwser (did you mean answer?); prompts have the columns prompt, id" in capsys.readouterr().err


def test_delimiters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["id", "prompt", "kind"], ["a", '"One; two,\tthree?"', "sum"], ["b", "Four?", "7"]]
    for mark in ",;\t":
        prompts = read_prompts(write(tmp_path / "sheet.csv", "\r\n".join(map(mark.join, rows))))
        assert [(prompt.prompt, prompt.kind) for prompt in prompts] == [("One; two,\tthree?", "sum"), ("Four?", "7")]
    assert capsys.readouterr().err == ""


def table(*columns: list[Any], name: str = "prompt") -> bytes:
    pq.write_table(pa.table([*map(pa.array, columns)], [name] * len(columns)), sink := io.BytesIO())
    return sink.getvalue()


BAD: dict[str, tuple[bytes | None, str]] = {
    "a.doc": (b"x", ".doc is not supported: use .txt, .jsonl, .csv or .parquet"),
    "blank.txt": (b" \n\n", "holds no prompt"),
    "header.csv": (b"id,prompt\n", "holds no prompt"),
    "empty.csv": (b"", "holds no prompt"),
    "image.txt": (b"\x89PNG\r\n\x1a\n\0\0", "not a text file"),
    "latin.txt": ("café".encode("latin-1"), "not UTF-8 text (byte 0xe9 at offset 3)"),
    "broken.jsonl": (b'{"prompt": "x"}\n{"prompt": \n', "line 2: not JSON (Expecting value"),
    "list.jsonl": (b'["x"]', 'line 1: must be an object with a prompt, got ["x"]'),
    "column.jsonl": (b'{"text": "x"}', "line 1: column prompt is missing, found text"),
    "column.csv": (b"id,text\n1,x\n", "column prompt is missing, found id, text"),
    "column.parquet": (table(["x"], name="text"), "column prompt is missing, found text"),
    "null.parquet": (table(["x", None]), "row 2: prompt is missing"),
    "number.jsonl": (b'{"prompt": 3}', "line 1: prompt must be text, got 3"),
    "nan.jsonl": (b'{"prompt": "x", "answer": NaN}', "line 1: answer must be text, got nan"),
    "pattern.jsonl": (b'{"prompt": "x", "answer_pattern": "(a"}', "line 1: answer_pattern '(a' is no regular"),
    "limit.csv": (b"prompt,max_new_tokens\nx,many\n", "line 2: max_new_tokens must be a whole number above 0"),
    "steps.jsonl": (b'{"prompt": "x", "steps": 0}', "line 1: steps must be a whole number above 0, got 0"),
    "half.jsonl": (b'{"prompt": "\\ud800"}', "line 1: prompt holds half a surrogate pair"),
    "twice.jsonl": (b'{"prompt": "x", "id": "a"}\n{"prompt": "y", "id": "a"}', "prompt id 'a' is there more than "
        "once (line 1 and line 2)"),
    "clash.jsonl": (b'{"prompt": "x", "id": 1}\n{"prompt": "y"}', "prompt id '1' is there more than once"),
    "double.csv": (b"prompt,id,prompt\nx,1,y\n", "column prompt is there more than once"),
    "double.jsonl": (b'{"prompt": "x"}\n{"prompt": "x", "prompt": "y"}', "line 2: column prompt is there more"),
    "double.parquet": (table(["x"], ["x"]), "column prompt is there more than once"),
    "comma.csv": (b"prompt\nwell, well\n", "line 2: 2 cells under a header of 1: put cells with commas"),
    "semicolon.csv": (b"id;prompt\n1;well; well\n", "line 2: 3 cells under a header of 2: put cells with semic"),
    "quote.csv": (b'prompt\n"x\n', "line 2: not CSV (unexpected end of data)"),
    "text.parquet": (b"not parquet", "not a Parquet file (Parquet magic bytes not found"),
    "nowhere.txt": (None, "can't be read (No such file or directory)"),
    ".": (None, "a name without ending is not supported"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    path, (content, message) = tmp_path / name, BAD[name]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"^{re.escape(str(path))}[:,] {re.escape(message)}[^\n]*$"):
        read_prompts(path)


def test_prompts_of_python_are_those_of_a_file(tmp_path: Path) -> None:
    rows = [{"prompt": "one", "answer": 7, "group": None}, {"prompt": "two", "answer": None, "group": "a"}]
    expected = read_prompts(path := write(tmp_path / "two.jsonl", "\n".join(map(json.dumps, rows))))
    assert prompts_of(str(path)) == prompts_of(path) == prompts_of(rows) == prompts_of(expected) == expected
    assert prompts_of(pd.DataFrame(rows)) == (replace(expected[0], answer="7.0"), expected[1]), "as pandas has numbers"
    assert prompts_of(pd.DataFrame(rows).astype({"answer": "Int64"})) == expected
    assert prompts_of(["one", {"prompt": "two"}]) == (Prompt(id="0", prompt="one"), Prompt(id="1", prompt="two"))
    refused: list[tuple[object, str]] = [
        ([], "prompts: holds no prompt"),
        (["one", 3], "prompts, entry 2: must be a text or a dict with a prompt, got '3'"),
        ([{"promt": "one"}], "prompts, entry 1: prompt is missing"),
        (pd.DataFrame({"text": ["one"]}), "prompts: column prompt is missing, found text"),
        ("Explain.", "prompts 'Explain.' is no file of prompts (.txt, .jsonl, .csv or .parquet)"),
        ({"prompt": "one"}, "prompts must be a list of texts or dicts, a DataFrame or a path"),
    ]
    for given, line in refused:
        with pytest.raises(UsageError, match=f"^{re.escape(line)}"):
            prompts_of(given)


def test_prompts_of_the_commands_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "jobs/sweeps/prompts/questions.jsonl"
    assert read_prompts(name) == read_prompts(Path(__file__).parents[3] / name)
    (tmp_path / name).parent.mkdir(parents=True)
    write(tmp_path / name, '{"prompt": "mine"}')
    assert [prompt.prompt for prompt in read_prompts(name)] == ["mine"]
    with pytest.raises(UsageError, match=r"^jobs/nothing\.txt: can't be read"):
        read_prompts("jobs/nothing.txt")
