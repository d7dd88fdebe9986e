"""Draw prompts with answers, each alike and independently of the others, and write them to a file.

    python jobs/files/make_prompts.py --n 2000 --seed 0 --out drawn.jsonl
    python jobs/sweep.py --prompts drawn.jsonl --max-new-tokens 32 --out results/drawn

Each prompt's kind is drawn, and then the prompt, from those of its kind: jobs/README.md lists them. A prompt about a
fact that came before is drawn again, so that no two share one. A seed always gives the same prompts, and more of them
begin with the fewer.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from cluster.console.command import command
from cluster.console.flags import Parser, seed, whole
from eexit.errors import UsageError, first_line


@command()
def main(arguments: Sequence[str]) -> int:
    """0: written. 2: the input can't be used, or the file can't be written."""
    parser = Parser(__doc__)
    parser.add_argument("--n", type=whole, default=2000, help="how many prompts (default: 2000)")
    parser.add_argument("--seed", type=seed, default=0, help="which ones (default: 0)")
    parser.add_argument("--out", metavar="FILE", required=True, help="a new .jsonl file")
    flags = parser.read(arguments)
    from eexit.output.whole_files import write_whole
    from eexit.plan.prompt_kinds import draw_prompts
    from eexit.results.whereabouts import refuse_for_file

    out = Path(flags.out)
    if out.suffix.lower() != ".jsonl":
        raise UsageError(f"--out {out} must end in .jsonl, so that a sweep can read it")
    lines = [
        json.dumps({column: value for column, value in asdict(prompt).items() if value is not None}) + "\n"
        for prompt in draw_prompts(flags.n, flags.seed)
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
