"""Prompt files: prompts are read unchanged, and each kind of bad file has its error message."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eexit.errors import UsageError
from eexit.plan.prompts import prompts_of, read_prompts
from eexit.plan.splits import kinds
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


def write_prompts(path: Path, prompts: list[str]) -> Path:
    """Write the file as a careful user would."""
    match path.suffix:
        case ".txt":
            return write(path, "\n".join(prompts) + "\n")
        case ".jsonl":
            return write(path, "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
        case ".csv":
            quoted = ['"' + prompt.replace('"', '""') + '"' for prompt in prompts]
            return write(path, "\n".join(["prompt", *quoted]))
    pq.write_table(pa.table({"prompt": prompts}), path)
    return path


@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv", ".parquet"])
def test_hostile_prompts_arrive_unchanged(tmp_path: Path, ending: str) -> None:
    prompts = read_prompts(write_prompts(tmp_path / f"hostile{ending}", HOSTILE))
    assert [prompt.prompt for prompt in prompts] == HOSTILE
    assert [prompt.id for prompt in prompts] == [str(index) for index in range(len(HOSTILE))]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_line_ends_and_empty_prompts_arrive_unchanged(tmp_path: Path, ending: str) -> None:
    texts = ["two\nlines", "dos\r\nlines", "old\rmac", "", "last"]
    prompts = read_prompts(write_prompts(tmp_path / f"lines{ending}", texts))
    assert [prompt.prompt for prompt in prompts] == texts


def test_blank_lines_and_byte_order_marks_are_no_prompts(tmp_path: Path) -> None:
    path = write(tmp_path / "dos.txt", b"\xef\xbb\xbfone\r\n\r\n  \r\ntwo")
    assert [prompt.prompt for prompt in read_prompts(path)] == ["one", "two"]


COLUMNS = ("id", "system", "answer", "answer_pattern", "prefiller", "max_new_tokens", "steps")
ROWS: list[dict[str, Any]] = [
    {"id": "a", "system": "Be brief.", "answer": "4", "answer_pattern": "\\d", "prefiller": " First,\n"},
    {"id": 7, "answer": "1,5", "max_new_tokens": 7, "steps": 3},
    {"id": "c", "answer": 0.5},
]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_columns_are_taken_may_be_numbers_or_missing_and_others_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    path = tmp_path / f"full{ending}"
    rows = [{"prompt": f"{n}?", **dict.fromkeys(COLUMNS), **row, "Anwser": "x"} for n, row in enumerate(ROWS)]
    match ending:
        case ".jsonl":
            write(path, "\n".join(map(json.dumps, rows)))
        case ".csv":
            pd.DataFrame(rows).astype({"max_new_tokens": "Int64", "steps": "Int64"}).to_csv(path, index=False)
        case _:
            named = [{**row, "id": f"{row['id']}", "answer": f"{row['answer']}"} for row in rows]
            pd.DataFrame(named).to_parquet(path)  # pandas makes 7 a 7.0
    expected = [{**row, **{name: str(row[name]) for name in ("id", "answer")}} for row in ROWS]
    assert read_prompts(path) == tuple(Prompt(prompt=f"{n}?", **row) for n, row in enumerate(expected))
    assert "not read: Anwser (did you mean answer?); prompts have the columns prompt, id" in capsys.readouterr().err


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_cells_may_be_delimited_as_spreadsheets_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mark: str
) -> None:
    rows = [["id", "prompt", "kind"], ["a", '"One; two,\tthree?"', "sum"], ["b", "Four?", "7"]]
    path = write(tmp_path / "sheet.csv", "\r\n".join(map(mark.join, rows)))
    assert [(prompt.prompt, prompt.kind) for prompt in read_prompts(path)] == [
        ("One; two,\tthree?", "sum"),
        ("Four?", "7"),
    ]
    assert capsys.readouterr().err == ""


def test_the_kind_of_a_prompt_is_what_it_names_or_else_what_its_id_says() -> None:
    prompts = [
        Prompt("loss-1", "x"),
        Prompt("loss-2", "x", kind="passage"),
        Prompt("3", "x"),
        Prompt("4", "x", kind=""),
    ]
    assert kinds(map(asdict, prompts)) == {"loss-1": "loss", "loss-2": "passage"}


BAD = {
    "ending.doc": (b"x", ".doc is not supported: use .txt, .jsonl, .csv or .parquet"),
    "empty.txt": (b"", "holds no prompt: write at least one"),
    "blank.txt": (b" \n\n", "holds no prompt: write at least one"),
    "header.csv": (b"id,prompt\n", "holds no prompt: write at least one"),
    "empty.csv": (b"", "holds no prompt: write at least one"),
    "image.txt": (b"\x89PNG\r\n\x1a\n\0\0", "not a text file (it holds zero bytes): save it as UTF-8 text"),
    "latin.txt": ("café".encode("latin-1"), "not UTF-8 text (byte 0xe9 at offset 3): save it as UTF-8"),
    "broken.jsonl": (
        b'{"prompt": "x"}\n{"prompt": \n',
        "line 2: not JSON (Expecting value: line 1 column 12 (char 11)): write one object a line",
    ),
    "list.jsonl": (b'["x"]', 'line 1: must be an object with a prompt, got ["x"]'),
    "column.jsonl": (b'{"text": "x"}', "line 1: column prompt is missing, found text: name the prompts' column so"),
    "column.csv": (b"id,text\n1,x\n", "column prompt is missing, found id, text: name the prompts' column so"),
    "null.jsonl": (b'{"prompt": null}', "line 1: prompt is missing: give it a text (an empty one is allowed)"),
    "number.jsonl": (b'{"prompt": 3}', "line 1: prompt must be text, got 3"),
    "answers.jsonl": (b'{"prompt": "x", "answer": ["y"]}', "line 1: answer must be text, got ['y']"),
    "nan.jsonl": (b'{"prompt": "x", "answer": NaN}', "line 1: answer must be text, got nan"),
    "pattern.jsonl": (
        b'{"prompt": "x", "answer_pattern": "(a"}',
        "line 1: answer_pattern '(a' is no regular expression (missing ) at position 2): mend it",
    ),
    "limit.csv": (
        b"prompt,max_new_tokens\nx,many\n",
        "line 2: max_new_tokens must be a whole number above 0, got 'many'",
    ),
    "steps.jsonl": (b'{"prompt": "x", "steps": 0}', "line 1: steps must be a whole number above 0, got 0"),
    "half.jsonl": (
        b'{"prompt": "\\ud800"}',
        "line 1: prompt holds half a surrogate pair, which no text can: got '\\ud800'",
    ),
    "twice.jsonl": (
        b'{"prompt": "x", "id": "a"}\n{"prompt": "y", "id": "a"}',
        "prompt id 'a' is there more than once (line 1 and line 2): make ids unique, or leave them out",
    ),
    "clash.jsonl": (
        b'{"prompt": "x", "id": 1}\n{"prompt": "y"}',
        "prompt id '1' is there more than once (line 1 and line 2): make ids unique, or leave them out",
    ),
    "double.csv": (b"prompt,id,prompt\nx,1,y\n", "column prompt is there more than once: keep one of them"),
    "double-id.csv": (b"id,prompt,id\nx,1,y\n", "column id is there more than once: keep one of them"),
    "double.jsonl": (
        b'{"prompt": "x"}\n{"prompt": "x", "prompt": "y"}',
        "line 2: column prompt is there more than once: keep one of them",
    ),
    "comma.csv": (
        b"prompt\nwell, well\n",
        "line 2: 2 cells under a header of 1: put cells with commas, quotes or line ends in double quotes",
    ),
    "semicolon.csv": (
        b"id;prompt\n1;well; well\n",
        "line 2: 3 cells under a header of 2: put cells with semicolons, quotes or line ends in double quotes",
    ),
    "text.parquet": (
        b"not parquet",
        "not a Parquet file (Parquet magic bytes not found in footer. Either the file is corrupted or this is not a "
        "parquet file.): check what wrote it",
    ),
    "quote.csv": (b'prompt\n"x\n', "line 2: not CSV (unexpected end of data): check its quotes"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    path = write(tmp_path / name, content)
    with pytest.raises(UsageError) as raised:
        read_prompts(path)
    told = str(raised.value)
    assert told.startswith(str(path))
    assert "\n" not in told
    assert told.removeprefix(str(path)).lstrip(":, ") == message


TEXTS = pa.array(["x"])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"text": ["x"]}), "column prompt is missing, found text"),
        (pa.table({"prompt": ["x", None]}), "row 2: prompt is missing"),
        (pa.table({"prompt": [1, 2]}), "row 1: prompt must be text, got 1"),
        (pa.Table.from_arrays([TEXTS, TEXTS], names=["prompt", "prompt"]), "column prompt is there more than once: ke"),
    ],
)
def test_parquet_columns_are_checked(tmp_path: Path, table: pa.Table, message: str) -> None:
    pq.write_table(table, tmp_path / "columns.parquet")
    with pytest.raises(UsageError, match=message):
        read_prompts(tmp_path / "columns.parquet")


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.txt: can't be read \(No such file or directory\)"):
        read_prompts(tmp_path / "nowhere.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(UsageError, match=r"folder\.txt: can't be read \(Is a directory\)"):
        read_prompts(tmp_path / "folder.txt")


def test_prompts_of_python_are_those_of_a_file(tmp_path: Path) -> None:
    rows = [{"prompt": "one", "answer": 7, "group": None}, {"prompt": "two", "answer": None, "group": "a"}]
    path = write(tmp_path / "two.jsonl", "\n".join(map(json.dumps, rows)))
    expected = read_prompts(path)
    assert prompts_of(str(path)) == prompts_of(path) == prompts_of(rows) == prompts_of(expected) == expected
    assert prompts_of(pd.DataFrame(rows)) == (replace(expected[0], answer="7.0"), expected[1]), "as pandas has numbers"
    assert prompts_of(pd.DataFrame(rows).astype({"answer": "Int64"})) == expected
    assert prompts_of(["one", {"prompt": "two"}]) == (Prompt(id="0", prompt="one"), Prompt(id="1", prompt="two"))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ([], "prompts: holds no prompt: write at least one"),
        (["one", 3], "prompts, entry 2: must be a text or a dict with a prompt, got '3'"),
        ([{"promt": "one"}], "prompts, entry 1: prompt is missing: give it a text (an empty one is allowed)"),
        ([{"prompt": 3}], "prompts, entry 1: prompt must be text, got 3"),
        (pd.DataFrame({"text": ["one"]}), "prompts: column prompt is missing, found text: name the prompts' column so"),
        (
            "Explain.",
            "prompts 'Explain.' is no file of prompts (.txt, .jsonl, .csv or .parquet): give a list of texts, or the "
            "path of such a file",
        ),
        (
            {"prompt": "one"},
            "prompts must be a list of texts or dicts, a DataFrame or a path, got \"{'prompt': 'one'}\"",
        ),
    ],
)
def test_what_are_no_prompts_is_told_in_one_line(given: object, line: str) -> None:
    with pytest.raises(UsageError) as raised:
        prompts_of(given)
    assert str(raised.value) == line


def test_prompts_that_come_with_the_commands_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "jobs/sweeps/prompts/questions.jsonl"
    theirs = read_prompts(name)
    assert theirs == read_prompts(Path(__file__).parents[3] / name)
    (tmp_path / name).parent.mkdir(parents=True)
    write(tmp_path / name, '{"prompt": "mine"}')
    assert [prompt.prompt for prompt in read_prompts(name)] == ["mine"]
    with pytest.raises(UsageError, match=r"^jobs/nothing\.txt: can't be read \(No such file or directory\)"):
        read_prompts("jobs/nothing.txt")
