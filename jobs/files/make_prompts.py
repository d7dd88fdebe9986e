"""Draw prompts with answers, each alike and independently of the others, and write them to a file.

    python jobs/files/make_prompts.py --n 2000 --seed 0 --out drawn.jsonl
    python jobs/sweep.py --prompts drawn.jsonl --max-new-tokens 32 --out results/drawn
    python jobs/files/make_prompts.py --n 200 --steps --out steps.jsonl
    python jobs/sweep.py --prompts steps.jsonl --max-new-tokens 256 --thinking-until "(?i)answer:" --out results/steps

Each prompt's kind is drawn, and then the prompt, from those of its kind: jobs/README.md lists them. A prompt about a
fact that came before is drawn again, so that no two share one. A seed always gives the same prompts, and more of them
begin with the fewer. With --steps, they ask to think first and to end with "Answer:", and say how many steps lead to
the answer (column steps).
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from cluster.console.command import command
from cluster.console.flags import Parser, seed, whole
from eexit.errors import UsageError, first_line
from eexit.output.text import did_you_mean


@command()
def main(arguments: Sequence[str]) -> int:
    """0: written. 2: the input can't be used, or the file can't be written."""
    parser = Parser(__doc__)
    parser.add_argument("--n", type=whole, default=2000, help="how many prompts (default: 2000)")
    parser.add_argument("--seed", type=seed, default=0, help="which ones (default: 0)")
    which = "draw prompts that need steps instead: of all kinds of them, or of these"
    parser.add_argument("--steps", nargs="*", metavar="KIND", help=which)
    parser.add_argument("--out", metavar="FILE", required=True, help="a new .jsonl file")
    flags = parser.read(arguments)
    from eexit.output.whole_files import write_whole
    from eexit.plan.prompt_kinds.drawing import KINDS, draw_prompts
    from eexit.plan.prompt_kinds.in_steps import IN_STEPS
    from eexit.results.whereabouts import refuse_for_file

    out = Path(flags.out)
    if out.suffix.lower() != ".jsonl":
        raise UsageError(f"--out {out} must end in .jsonl, so that a sweep can read it")
    stepped = {kind.name: kind for kind in IN_STEPS}
    if unknown := [name for name in flags.steps or () if name not in stepped]:
        meant = did_you_mean(unknown[0], stepped, f"there are {', '.join(stepped)}", most=1)
        raise UsageError(f"--steps {unknown[0]}: no such kind needs steps: {meant}")
    kinds = KINDS if flags.steps is None else [stepped[name] for name in dict.fromkeys(flags.steps or stepped)]
    lines = [
        json.dumps({column: value for column, value in asdict(prompt).items() if value is not None}) + "\n"
        for prompt in draw_prompts(flags.n, flags.seed, kinds)
    ]
    try:
        refuse_for_file(flags.out, "--out")
        if out.exists() and out.stat().st_size:  # a full disk may have left an empty one
            raise UsageError(f"--out {out} is there already: choose another name")
        write_whole(out, "".join(lines))
    except OSError as error:
        raise UsageError(f"--out {out} can't be written ({first_line(error)})") from error
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
