"""The dataset card of teacher data: a README.md with the YAML header that the Hugging Face hub reads.

It says what each column is, from `CONVERSATIONS`, and how the data was made, from the sweep's manifest.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eexit.output.locations import without_secrets
from eexit.output.text import percent, with_versions
from eexit.results.layout import Manifest
from eexit.studies.export.conversations import CONVERSATIONS, SHAPES

CARD: Final = "README.md"
DATA_FILES: Final = "*.parquet"


@dataclass
class Account:
    """What has been exported so far. Sums are over tokens, for means in the card."""

    kl_factors: Sequence[float]
    n_tokens: int = 0
    n_decided: int = 0
    n_top: int = 0  # final top tokens, of all tokens
    top_mass: float = 0.0  # their probability
    exit_rate_F: Any = 0.0  # the chance to exit before the final layer, of decided tokens
    depth_F: Any = 0.0  # the expected depth, fraction of L, of decided tokens
    runs: Counter[str] = field(default_factory=Counter)  # by configuration
    prompts: set[str] = field(default_factory=set)
    files: Sequence[str] = ()  # their names, once all is written

    def add(self, table: pa.Table) -> None:
        """Count these rows of `CONVERSATIONS`."""
        layers = np.array(table["layers"][0].as_py())
        probability = _flat(table["kl_exit_prob"], 3).reshape(-1, len(self.kl_factors), len(layers))
        decided_NFX = probability[_flat(table["decided"], 1)].astype(np.float64)
        logprob = _flat(table["final_top_logprob"], 2)
        self.n_tokens += len(probability)
        self.n_decided += len(decided_NFX)
        self.n_top += len(logprob)
        self.top_mass += float(np.exp(logprob, dtype=np.float64).sum())
        self.exit_rate_F += decided_NFX[..., :-1].sum((0, 2))
        self.depth_F += (decided_NFX @ ((layers + 1) / (layers[-1] + 1))).sum(0)
        self.runs.update(table["configuration"].to_pylist())
        self.prompts.update(table["prompt_id"].to_pylist())


@dataclass(frozen=True)
class Making:
    """How an export was made, and what was left out of it."""

    results: str  # where the sweep is, as it is shown
    command: str
    made: str  # ISO 8601, UTC
    versions: Mapping[str, str | None]
    n_failed: int  # runs of the chosen configurations that ended in an error
    n_missing: int  # and that have not landed


def dataset_card(manifest: Manifest, account: Account, making: Making) -> str:
    """The whole card."""
    name, n_factors = manifest.model["name"], len(account.kl_factors)
    settings = {name: value for name, value in manifest.config.items() if name not in ("prompts", "controls")}
    text = f"""{_header(name)}
# Early-exit teacher data of {name}

Each row is one conversation that the model wrote. For every token it has what the full-depth model, the teacher,
made of it: the KL divergence of every layer at which an early exit is possible, the chances to exit there at
{n_factors} KL factors, and the likeliest tokens of the final layer.

```python
from datasets import load_dataset

data = load_dataset("parquet", data_files="{DATA_FILES}", split="train")  # in this folder
```

## Columns

T is the number of the row's generated tokens (`n_tokens`), E the number of exitable layers, X = E + 1 with the final
layer last (`layers`), F the number of KL factors (`kl_factors`), K that of recorded top tokens. Index t of a list over
T is the token at position t. `prompt_token_ids` followed by `token_id` is exactly what the model read and wrote.

{_table(("column", "type", "shape", "unit", "what it is"), _columns())}

## How it was made

{_table(("", ""), _origin(manifest, account, making))}

The sweep's settings, without its prompts:

```json
{json.dumps(settings, indent=1, ensure_ascii=False)}
```

{_counts(account, making)}

{_top_tokens(account)}

{_exits(account)}
"""
    return without_secrets(text)


def _header(name: str) -> str:
    return f"""---
license: unknown  # to be chosen by whoever publishes this: the model's licence may ask for one
pretty_name: {json.dumps(f"Early-exit teacher data of {name}", ensure_ascii=False)}
task_categories:
- text-generation
tags:
- early-exit
- distillation
configs:
- config_name: default
  data_files: {json.dumps(DATA_FILES)}
---
"""


def _columns() -> Iterable[Sequence[str]]:
    for column in CONVERSATIONS:
        unit, definition = (column.metadata[key].decode() for key in (b"unit", b"definition"))
        shape = SHAPES.get(column.name, "T" if definition.startswith("one entry per token") else "")
        yield f"`{column.name}`", _type_name(column.type), shape, unit, definition


def _type_name(kind: pa.DataType) -> str:
    """The type of a column without the names that Arrow gives to the fields inside of lists."""
    if pa.types.is_list(kind):
        return f"list of {_type_name(kind.value_type)}"
    return "{role, content}" if pa.types.is_struct(kind) else str(kind)


def _origin(manifest: Manifest, account: Account, making: Making) -> Iterable[Sequence[str]]:
    model, config = manifest.model, manifest.config
    sampled = f"sampled with temperature {config['temperature']} and top_p {config['top_p']}"
    yield "model", f"{model['name']} ({model['architecture']}, {model['n_layers']} layers, {model['dtype']})"
    yield "revision", model["revision"] or "none"
    yield "digest of the model", model["digest"] or "none: the revision identifies it"
    yield "exitable layers", " ".join(map(str, manifest.exitable_layers)) + ", 0-based"
    yield "readout of layers", config["readout"]
    yield "next token", sampled if config["temperature"] else "greedy"
    yield "seeds", " ".join(map(str, config["seeds"]))
    yield "KL factors", " ".join(f"{each:g}" for each in account.kl_factors)
    yield "sweep", f"{making.results}, started {manifest.started}, by {with_versions(manifest.versions)}"
    yield "exported", f"{making.made}, by {with_versions(making.versions)}"
    yield "command", f"`{making.command}`"


def _counts(account: Account, making: Making) -> str:
    n_runs, n_prompts = account.runs.total(), len(account.prompts)
    runs = _table(("configuration", "runs"), [(f"`{key}`", f"{n:,}") for key, n in sorted(account.runs.items())])
    missing = f" {making.n_missing:,} had not landed when this was exported." if making.n_missing else ""
    return f"""## Counts

{n_runs:,} conversations on {n_prompts:,} prompts, {account.n_tokens:,} tokens. The exit of {account.n_decided:,} of
them is decided: of all but the first of each conversation. {making.n_failed:,} runs of these configurations are left
out, since they ended in an error.{missing}

{runs}"""


def _top_tokens(account: Account) -> str:
    if not account.n_top:
        return (
            "## Top tokens\n\nThe sweep recorded none (`record_top_k` 0): the columns `final_top_…` hold empty lists."
        )
    covered, k = account.top_mass / account.n_tokens, account.n_top / account.n_tokens
    return f"""## Top tokens

The sweep recorded the {k:g} likeliest tokens of the final layer (`record_top_k`), before temperature and top_p.
They cover {percent(covered)} of the probability on average. The rest of the distribution is not known, and a loss over
these tokens alone leaves it out."""


def _exits(account: Account) -> str:
    rows = [
        (f"{k:g}", percent(rate), percent(depth))
        for k, rate, depth in zip(
            account.kl_factors,
            np.atleast_1d(account.exit_rate_F / max(1, account.n_decided)),
            np.atleast_1d(account.depth_F / max(1, account.n_decided)),
            strict=True,
        )
    ]
    return f"""## Exits

A token that reaches exitable layer l exits there with chance 2·sigmoid(−k·KL), where KL is that of the final layer's
distribution from layer l's, in nats. `kl_exit_prob` is what follows for all layers. On average over decided tokens:

{_table(("KL factor k", "chance of an early exit", "expected depth, of all layers"), rows)}

`exit_draw` is the uniform draw that the sweep uses for the token, whatever the configuration: a stream of numpy's
Philox generator for each seed and prompt, keyed by BLAKE2b of ("exit", seed, prompt_token_ids), in fp32. So the exit
that rule kl draws at any k is the first layer at which the cumulative sum of `kl_exit_prob` is above the draw. Sampled
tokens use another stream, with "sample" in place of "exit". `exit_layer` is where the token was really read from in
this run: the final layer in `normal`."""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [
        head,
        ["---"] * len(head),
        *([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _flat(column: pa.ChunkedArray, levels: int) -> np.ndarray:
    """All values of a column of nested lists."""
    for _ in range(levels):
        column = pc.list_flatten(column)
    values: np.ndarray = column.to_numpy()
    return values
