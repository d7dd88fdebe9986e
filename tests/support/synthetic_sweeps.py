"""Small synthetic sweeps and their study tables, written with the project's own schemas.

`run_rows` makes one run, and `swept` a whole grid of them; a test says which columns differ.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from eexit.method.rules import CONTROL, ExitHistogram
from eexit.plan.configuration import COLUMNS, NORMAL, Configuration, EarlyExit, NoExit
from eexit.plan.hashes import checksum
from eexit.results.layout import FORMAT
from eexit.results.store.commit import publish_shard
from eexit.results.store.folder import open_store
from eexit.results.study_table import StudyTable
from eexit.results.study_tables import CHOICES, JUDGEMENTS, REPLAYS, TIMINGS
from eexit.results.tables import GENERATIONS, TOKENS

Run = tuple[dict[str, Any], list[dict[str, Any]]]  # generations row, and token rows
LAYERS = [5, 10, 15, 20, 25]
FINAL = 29
HOSTILE = (
    "<script>window.owned=1</script></script><img src=x onerror=window.owned=1>"
    " &amp; ' \" ` ${1} {{ 7*7 }} \u202eright to left\u2069 \x00\x07\x1b[31m \u2028\u2029 "
    "👩‍👩‍👧 é 漢字 <!-- ]]> https://evil.example/x.js\n\tend"
)
WORDS = ["The", " cat", " sat", " on", " the", " mat", ".", "\n"]
CONFIGURATIONS: list[tuple[str, float | None]] = [("normal", None)] + [
    (mode, k) for mode in ("unfrozen", "frozen_residual") for k in (0.5, 1.0, 2.0)
]
NORMAL_ALONE = CONFIGURATIONS[:1]  # its report has the fewest charts
KL_1 = EarlyExit("unfrozen", "kl", 1.0)
PAIR: tuple[Configuration, ...] = (NoExit(), KL_1)
JUDGE: Final = "judge-1"
CHOSEN: Final = "unfrozen/confidence/0.9"


def run_rows(
    prompt_id: str, prompt: str, mode: str, k: float | None, pieces: list[str], seed: int = 0,
    of: Configuration | None = None, **change: Any,
) -> Run:  # fmt: skip
    """Return one run as a generations row and its token rows. Exits follow from position, so numbers can be checked.

    It is of rule kl, or of configuration `of`.
    """
    run_id = f"{prompt_id}-{of.key}-{seed}" if of else f"{prompt_id}-{mode}-{k}-{seed}"
    configuration = of or (NoExit(mode) if k is None else EarlyExit(mode, "kl", k))
    naming = {"run_id": run_id, "prompt_id": prompt_id, **configuration.columns, "seed": seed}
    tokens: list[dict[str, Any]] = []
    drawn = 0.2 if mode != "normal" else 0.0
    for i, piece in enumerate(pieces):
        early, token_id = k is not None and i > 0 and i % int(2 * k) == 0, 100 + sum(piece.encode()) % 900
        exit_prob = [drawn / 5 if i else 0.0] * 5
        tokens.append(naming | {
            "position": i, "decided": i > 0, "drafted": False, "token_id": token_id, "token": piece,
            "exit_layer": LAYERS[i % len(LAYERS)] if early else FINAL, "kl": [8.0 / (j + 1) ** 2 for j in range(5)],
            "exit_prob": [*exit_prob, 1 - sum(exit_prob)], "logprob": -1.5,
            "final_token_id": token_id if i % 3 else 7, "entropy": 2.0,
        })  # fmt: skip
    decided = [token["exit_layer"] for token in tokens[1:]]
    differs = [token["token_id"] != token["final_token_id"] for token in tokens[1:]]
    counts = {layer: decided.count(layer) for layer in [*LAYERS, FINAL]}
    generation = naming | {
        "prompt": prompt, "model": "tiny", "status": "ok", "error": None, "finish_reason": "length",
        "text": "".join(pieces), "prompt_token_ids": [1, 2], "n_prompt_tokens": 2, "n_tokens": len(pieces),
        "exit_rate": sum(layer != FINAL for layer in decided) / max(1, len(decided)),
        "mean_depth": sum(layer + 1 for layer in decided) / (max(1, len(decided)) * (FINAL + 1)),
        "disagreement": sum(differs) / len(differs) if differs else None,
        "exit_layer_counts": list(counts.items()), "perplexity": 3.0 if k is None else 3.0 + 2 / k,
        "tokens_until_difference": len(pieces) if k is None else int(2 * k) + 1,
        "equal_share": 1.0 if k is None else 0.5,
        "lcs_share": 1.0 if k is None else 0.6, "distinct_2": 0.9, "distinct_3": 0.95, "longest_loop": 0,
    }  # fmt: skip
    return generation | change, tokens


def swept(
    folder: Path, grid: Sequence[Configuration] = PAIR, n_prompts: int = 6, seeds: Sequence[int] = (0,),
    columns: Callable[[Configuration, int, int], Mapping[str, Any]] = lambda configuration, prompt, seed: {},
    pieces: Callable[[Configuration, int, int], list[str]] = lambda *_: ["a", "b", "c", "d"],
    of_token: Callable[[Configuration, Mapping[str, Any]], Mapping[str, Any]] = lambda configuration, token: {},
    temperature: float | None = None,
) -> Path:  # fmt: skip
    """Write every run of a grid. `columns` and `pieces` are functions of configuration, prompt and seed.

    `of_token` returns changed columns of a token row.
    """
    runs = []
    for prompt, configuration, seed in product(range(n_prompts), grid, seeds):
        k = 1.0 if isinstance(configuration, EarlyExit) else None
        mode, of_run = configuration.mode if k else NORMAL, (configuration, prompt, seed)
        row, tokens = run_rows(
            f"{prompt}", f"Question {prompt}?", mode, k, pieces(*of_run), seed, configuration, **columns(*of_run)
        )
        runs.append((row, [{**token, **of_token(configuration, token)} for token in tokens]))
    return write_runs(folder, runs, float(len(seeds) > 1) if temperature is None else temperature)


def failed(run: Run, error: str) -> Run:
    """Return the run as one that failed: without numbers and tokens."""
    row, _ = run
    keep = ("run_id", "prompt_id", "configuration", "mode", "rule", "parameter", "kl_factor", "seed", "prompt", "model")
    return dict.fromkeys(row) | {name: row[name] for name in keep} | {"status": "error", "error": error}, []


def shard(number: int) -> str:
    """Return the common name of a shard's two files."""
    return f"{number:032x}.parquet"


def write_runs(folder: Path, runs: Iterable[Run], temperature: float = 0.0, n_runs: int | None = None) -> Path:
    """Write a sweep of these runs. With temperature 0, runs of `normal` have to be the same for every seed."""
    runs = [*runs]
    generations, tokens = [row for row, _ in runs], [token for _, tokens in runs for token in tokens]
    folder.mkdir(parents=True)
    prompts = {row["prompt_id"]: row["prompt"] for row in generations}
    modes = list(dict.fromkeys(row["mode"] for row in generations))
    configurations = {row["configuration"]: {name: row.get(name) for name in COLUMNS} for row in generations}
    about = {
        "format": FORMAT,
        "configurations": [{"key": key, **columns} for key, columns in configurations.items()],
        "config": {
            "model": "tiny", "prompts": [{"id": i, "prompt": p, "system": None} for i, p in prompts.items()],
            "modes": modes, "seeds": [0], "readout": "lens", "max_new_tokens": 40, "temperature": temperature,
            "top_p": 1.0, "system": "", "prefiller": "", "screen": None, "record_full_depth": "all",
        },
        "model": {"name": "tiny", "revision": None, "digest": "sha256:0", "architecture": "llama",
                  "n_layers": FINAL + 1, "dtype": "float32"},
        "exitable_layers": LAYERS, "versions": {"python": "3.13", "eexit": "0.1.0"},
        "started": "2026-01-01T00:00:00+00:00", "n_runs": len(generations) if n_runs is None else n_runs,
    }  # fmt: skip
    write_manifest(folder, about)
    for name in ("generations", "tokens"):
        (folder / name).mkdir()
    if generations:
        write_shard(folder, 0, pa.Table.from_pylist(generations, GENERATIONS), pa.Table.from_pylist(tokens, TOKENS))
    return folder


def write_manifest(folder: Path, about: dict[str, Any]) -> None:
    about = {name: value for name, value in about.items() if name != "checksum"}
    (folder / "sweep.json").write_text(json.dumps(about | {"checksum": checksum(about)}))


def write_shard(folder: Path, number: int, generations: pa.Table, tokens: pa.Table, attempt: int = 1) -> None:
    publish_shard(open_store(folder).publish, f"{number:032x}", generations, tokens, attempt)


def story(prompt: int, mode: str, k: float | None) -> list[str]:
    """Return the words of a run: the same as normal's up to 2k + 1, then others that match only now and then."""
    words = [WORDS[(i + prompt) % len(WORDS)] for i in range(24)]
    if k is None:
        return words
    return [w if i <= 2 * k or i % 3 == 0 else f" {mode[0]}{i % 4}" for i, w in enumerate(words)]


# Rule → parameter → how much the setting exits early, from 0 to 1.
BOLD: Final = {"confidence": {0.7: 0.8, 0.9: 0.3}, "kl": {0.5: 0.6, 2.0: 0.2}}
BOTH: Final = ("unfrozen", "frozen_residual")


def with_answers(folder: Path, n_prompts: int = 12, modes: Sequence[str] = BOTH) -> Path:
    """Write a sweep of `normal`, and of the settings of two rules with a control each.

    Accuracy falls with boldness; controls are worse. Prompts 0 and 1 have no answer.
    """
    draw, hard, boldness = np.random.default_rng(3), dict[int, float](), dict[Configuration, float]({NoExit(): 0.0})
    for mode, rule in product(modes, BOLD):
        for parameter, bold in BOLD[rule].items():
            setting = EarlyExit(mode, rule, parameter)
            boldness |= {setting: bold, EarlyExit(mode, CONTROL, ExitHistogram(setting.key, ())): bold}

    def columns(configuration: Configuration, prompt: int, seed: int) -> dict[str, Any]:
        bold = boldness[configuration]
        worse = bold * (2.0 if configuration.columns["control_of"] else 1.0)
        if prompt not in hard:
            hard[prompt] = draw.uniform()
        right = bool(hard[prompt] + 0.3 * worse + 0.1 * draw.uniform() < 0.8)
        answers = {"answer": "42", "found_answer": "42" if right else "41", "correct": right} if prompt > 1 else {}
        return answers | {
            "mean_depth": 1 - 0.4 * bold, "exit_rate": bold, "disagreement": 0.25 * worse,
            "lcs_share": 1 - 0.5 * worse, "perplexity": 3 + worse, "macs_full": 100.0, "macs_required": 100 - 40 * bold,
            "macs_executed": None if configuration.columns["rule"] == "kl" else 110 - 60 * bold,
        }  # fmt: skip

    return swept(folder, [*boldness], n_prompts, columns=columns)


def graded(folder: Path, marks: Mapping[Any, str], seeds: Sequence[int] = (0,), **exits: Any) -> Path:
    """Write a sweep with given answers: a letter of `marks` per prompt, ✓ where the configuration is right.

    `exits` are numbers of all runs but `normal`'s.
    """
    words = {"✓": "42", "✗": "41"}

    def columns(configuration: Configuration, prompt: int, seed: int) -> dict[str, Any]:
        mark = marks[configuration][prompt]
        costs = {"macs_full": 100.0, "macs_executed": 100.0} if exits else {}
        found = {"answer": "42", "found_answer": words[mark], "correct": mark == "✓"} | costs
        return found | ({} if configuration.mode == NORMAL else exits)

    n_prompts = len(next(iter(marks.values())))
    return swept(
        folder, [*marks], n_prompts, seeds, columns, lambda its, n, _: ["So", " it", " is", f" {words[marks[its][n]]}"]
    )


def with_kinds(folder: Path, kinds: Sequence[str | None]) -> Path:
    """Give the prompts of a sweep these kinds; its tokens are greedy."""
    about = json.loads((folder / "sweep.json").read_text())
    about["config"]["temperature"] = 0.0
    for prompt, kind in zip(about["config"]["prompts"], kinds, strict=True):
        prompt["kind"] = kind
    write_manifest(folder, about)
    return folder


def add(folder: Path, table: StudyTable, rows: Iterable[dict[str, Any]], call: int = 1) -> None:
    """Write a file of a study table, like a call of the command."""
    table.publish(open_store(folder), f"{call:032x}", [{"started": call} | row for row in rows])


def add_timings(
    folder: Path, seconds: Mapping[Any, Sequence[float]], call: int = 1, batches: Sequence[int] = (1,),
    columns: Callable[[Any], Mapping[str, Any]] = lambda configuration: {}, **change: Any,
) -> None:  # fmt: skip
    """Add a call: the seconds of each configuration (or `HFGenerate`) in each round, the same at all batch sizes."""
    rows = [
        {
            **configuration.columns, "batch": batch, "round": number, "prompts": 2, "tokens": 100 * batch,
            "seconds": value, "device": "cpu", "machine": "A CPU", "threads": 2, "versions": "", "model": "tiny",
            "dtype": "float32", **columns(configuration), **change,
        }
        for batch, configuration in product(batches, seconds) for number, value in enumerate(seconds[configuration], 1)
    ]  # fmt: skip
    add(folder, TIMINGS, rows, call)


def judge(folder: Path, fails: Sequence[str] = (), call: int = 1, **change: Any) -> None:
    """Add judgements of all runs of the sweep; the runs in `fails` have an error instead."""
    identity = ["run_id", "prompt_id", "seed", *COLUMNS]
    rows = []
    for run in ds.dataset(folder / "generations").to_table(columns=[*identity, "disagreement"]).to_pylist():
        score = 5 - round(10 * run.pop("disagreement"))
        found = {"status": "ok", "coherence": score, "completeness": score, "clarity": 5, "no_repetition": 4}
        if run["run_id"] in fails:
            found = {"status": "error", "error": "it answered with nonsense"}
        rows.append(run | {"judge": JUDGE, "rubric": "1", "text_hash": "0"} | found | change)
    add(folder, JUDGEMENTS, rows, call)


def replay(folder: Path, call: int = 1, factors: Sequence[float] = (0.25, 0.5, 1.0, 2.0, 4.0), **change: Any) -> None:
    """Add replays of rule `kl` in both modes on the texts of `normal`."""
    rows = []
    for mode, k in product(BOTH, factors):
        bold = 1 / (1 + k)
        depth, differs = 1 - 0.4 * bold, 0.2 * bold
        numbers = {
            "replay_id": f"{call:032x}", "text_of": NORMAL, "prompts": 12, "texts": 12, "tokens": 36, "drawn": False,
            "mean_depth": depth, "mean_depth_low": depth - 0.02, "mean_depth_high": depth + 0.01,
            "expected_kl": 2 * differs, "expected_disagreement": differs, "expected_disagreement_low": differs - 0.01,
            "expected_disagreement_high": differs + 0.01, "exit_distribution": [], "macs_full": 100.0,
            "macs_required": 100 - 40 * bold, "model": "tiny",
        }  # fmt: skip
        rows.append(EarlyExit(mode, "kl", k).columns | numbers | change)
    add(folder, REPLAYS, rows, call)


def choose(
    folder: Path, call: int = 1, chosen: str | None = CHOSEN, of_prompts: float | None = None, **change: Any
) -> None:
    """Add a selection for disagreement: a chosen setting, or none that can be certified.

    `of_prompts` is the loss over single prompts where groups differ in size.
    """
    bold = "unfrozen/confidence/0.7"
    tested = [
        {"configuration": key, "mean_loss": mean, "n": 150, "p_value": p, "certified": chosen == key, "cost": cost,
         "prompts_needed": None, "loss_of_prompts": of_prompts, "n_of_prompts": of_prompts and 813}
        for key, mean, p, cost in ((CHOSEN, 0.021, 0.004, 0.92), (bold, 0.049, 0.4, 0.62))
    ]  # fmt: skip
    its = {
        "configuration": chosen, "mean_loss": 0.021, "n": 150, "p_value": 0.004, "cost": 0.92,
        "reporting_mean_loss": 0.03, "reporting_n": 50, "reporting_upper": 0.08, "reporting_p_value": 0.2,
    }  # fmt: skip
    row = {
        "choice_id": f"{call:032x}", "status": "ok", "risk": "disagreement", "loss": "a loss", "max_risk": 0.05,
        "confidence": 0.95, "question": 1, "planned": 1, "error": 0.05, "cost_by": "run",
        "families": ["unfrozen/confidence"], "error_of_each": 0.05, "seeds": 1, "tested": tested,
        **(its if chosen else {}),
    }  # fmt: skip
    add(folder, CHOICES, [row | change], call)


def blank(table: StudyTable) -> dict[str, Any]:
    """Return the columns that can't be null, each with an empty value."""
    empty: dict[Callable[[pa.DataType], bool], Any] = {
        pa.types.is_nested: [], pa.types.is_boolean: False, pa.types.is_string: "", lambda kind: True: 0,
    }  # fmt: skip
    columns = (field for field in table.schema if not field.nullable)
    return {each.name: next(value for is_of, value in empty.items() if is_of(each.type)) for each in columns}
