"""What FINDINGS.md says beside the study's sections: how answers are graded, the commands, and what is not said."""

import csv

from findings.study import HOME
from findings.words import percent_of, table_of


def grading() -> str:
    with (HOME / "grading.csv").open() as file:
        found = list(csv.DictReader(file))
    names = ("texts", "alike", "wrongly_right", "wrongly_wrong")
    total = {name: sum(int(row[name]) for row in found) for name in names}
    rows = [[row["sort"], *(row[name] for name in names)] for row in found]
    return f"""
## How well answers are graded

Every accuracy has the grader's error beside the sample's. Of {total["texts"]} texts as small models write them, which a
careful reader had marked and no part of which made the grader, it marks {total["alike"]} alike
({percent_of(total["alike"] / total["texts"])}); wrongly right: {total["wrongly_right"]}, wrongly wrong:
{total["wrongly_wrong"]}. A test counts them again.

{table_of(["answers", "texts", "marked alike", "wrongly right", "wrongly wrong"], rows)}
"""


def commands() -> str:
    return """
## The commands

```sh
python jobs/files/make_prompts.py --n 3200 --seed 39 --out prompts.jsonl
head -700 prompts.jsonl > learn.jsonl && sed -n 701,1000p prompts.jsonl > pilot.jsonl
sed -n 1101,2430p prompts.jsonl > run.jsonl && head -332 run.jsonl > long.jsonl
LAYERS="5 10 15 20 23 24 25 26"
python jobs/sweep.py --prompts learn.jsonl --modes normal --observe none --max-new-tokens 32 --dtype float32 \\
    --out results/texts
python jobs/train.py results/texts --what linear --exit-layers $LAYERS --out results/linear
python jobs/train.py results/texts --what gate --exit-layers $LAYERS --rules confidence=0.9,0.95,0.97,0.99 \\
    --readout results/linear --out results/gate
READ="--readout results/linear --exit-layers $LAYERS --max-new-tokens 32"
DECIDE="--decide-on screen:32:256 --gate results/gate --gate-thresholds 0.3"
python jobs/sweep.py --prompts pilot.jsonl --modes normal unfrozen frozen_residual --rules agree \\
    --exit-sets all 20,25 23 $READ --dtype float32 --out results/pilot
python jobs/replay.py results/pilot --modes unfrozen --rules confidence=0.9,0.95,0.97,0.99 \\
    --exit-sets 20 23 25 20,25 15,23 10,20,25 5,15,23 all --decide-on screen:32:256 \\
    --gate results/gate --gate-thresholds 0.1 0.3 perfect
python jobs/sweep.py --prompts pilot.jsonl --modes normal frozen_residual --rules confidence=0.9,0.95,0.97,0.99 \\
    --exit-sets 23 15,23 $READ $DECIDE --observe final --dtype float32 --out results/tried
python jobs/sweep.py --prompts pilot.jsonl --modes normal frozen_residual --rules confidence=0.9,0.97 \\
    --exit-sets 25 26 $READ $DECIDE --observe final --dtype float32 --out results/late
for dtype in float32 bfloat16; do  # and with long.jsonl, --max-new-tokens 256, into results/long-$dtype
    python jobs/sweep.py --prompts run.jsonl --modes normal frozen_residual --rules confidence=0.9 --exit-sets 25 \\
        $READ $DECIDE --observe final --dtype $dtype --out results/run-$dtype
    python jobs/choose.py results/run-$dtype --risk answers --at-most 0.02 --asks 2 --order passed-on
done
head -32 run.jsonl > look.jsonl
python jobs/sweep.py --prompts look.jsonl --modes normal unfrozen --rules fixed=5,10,15,20,23,24,25,26 confidence=1 \\
    $READ --max-new-tokens 16 --dtype float32 --out results/look
python jobs/timings.py results/look --batch 1 8 --steps --configurations unfrozen/confidence/1 --prompts 1 --tokens 12
python jobs/timings.py results/run-float32 --batch 1 8 --prompts 8 --tokens 16 --rounds 7
python jobs/bench findings --from results
```
"""


def limits() -> str:
    return """
## What this does not say

One model, one machine, greedy texts, and English prompts of the kinds that `jobs/files/make_prompts.py` draws, which a
small model can answer. What is learned here was learned on prompts of the same kinds; on others, readouts know less,
and what is certified holds for these alone. A read of the head is unusually dear here beside larger models. Where a
larger model's tokens would leave is not known.
"""
