"""Tokens at which a rule was overconfident: early exits with a high probability, and not full depth's token."""

from collections.abc import Collection, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from eexit.plan.configuration import EarlyExit
from reports.read.sweep import Sweep


def confident_section(sweep: Sweep, held: Collection[str]) -> list[tuple[float, ...]]:
    """Return the confident errors (`confident_wrong`) of the prompts in `held`, which the page has.

    Each has indices of prompt and run, the position, and the token's probabilities at the exit and at full depth.
    """
    runs = sweep.generations.loc[sweep.generations["prompt_id"].isin(held), ["run_id", "prompt_id"]]
    numbers = {prompt_id: number for number, prompt_id in enumerate(held)}
    at = runs["prompt_id"].map(numbers), runs.groupby("prompt_id").cumcount()
    places = dict(zip(runs["run_id"], zip(*at, strict=True), strict=True))
    return [
        (*map(int, places[row["run_id"]]), row["position"], _rounded(row["at_exit"]), _rounded(row["at_full_depth"]))
        for row in confident_wrong(sweep, list(held)).to_dict("records")
    ]


def _rounded(probability: Any) -> float:
    return float(f"{probability:.3g}")


MOST_OF_EACH: Final = 8  # per configuration
NAMED: Final = ("run_id", "configuration", "position", "at_exit", "at_full_depth")


def confident_wrong(sweep: Sweep, prompt_ids: Sequence[str]) -> pd.DataFrame:
    """Return the tokens of online rules whose probability at the exit most exceeds that under full depth.

    Columns: `run_id`, `configuration`, `position`, and the token's probabilities `at_exit` and `at_full_depth`, which
    are after the same text. The largest excess comes first, at most `MOST_OF_EACH` per configuration. Empty if
    probabilities or full depth's tokens weren't recorded.
    """
    exits = [each for each in sweep.configurations if isinstance(each, EarlyExit)]
    online = [each.key for each in exits if not each.is_oracle and each.columns["control_of"] is None]
    of_runs = sweep.done.loc[sweep.done["configuration"].isin(online)].set_index("run_id")["configuration"]
    columns = ["run_id", "position", "exit_logprob", "logprob"]
    wanted = (
        pc.field("prompt_id").isin(pa.array(list(prompt_ids), pa.string()))
        & pc.field("run_id").isin(pa.array(of_runs.index.tolist(), pa.string()))
        & pc.field("decided")
        & (pc.field("exit_layer") != sweep.final_layer)
        & (pc.field("token_id") != pc.field("final_token_id"))
        & pc.is_valid(pc.field("exit_logprob"))
        & pc.is_valid(pc.field("logprob"))
    )
    if not online or sweep.final_layer is None:
        return pd.DataFrame(columns=[*NAMED])
    found = sweep.tokens.to_table(columns=columns, filter=wanted).to_pandas()
    found = found.assign(configuration=found["run_id"].map(of_runs))
    found = found.assign(at_exit=np.exp(found["exit_logprob"]), at_full_depth=np.exp(found["logprob"]))
    found = found.assign(deficit=found["at_full_depth"] - found["at_exit"])
    surest = found.sort_values(["deficit", "run_id", "position"]).groupby("configuration", sort=False)
    named: pd.DataFrame = surest.head(MOST_OF_EACH)[[*NAMED]]
    return named.reset_index(drop=True)
