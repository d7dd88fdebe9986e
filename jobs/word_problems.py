"""Write word problems with answers to a file of prompts; the same seed gives the same file.

python jobs/word_problems.py --n 200 --seed 0 --out problems.jsonl
python jobs/sweep.py --prompts problems.jsonl --out results/problems
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.console.command import command
from cluster.console.flags import Parser, seed, whole
from eexit.messages.errors import UsageError, first_line
from eexit.plan.word_problems import word_problems
from eexit.results.store.whereabouts import refuse_for_file
from eexit.whole_files import write_whole


@command()
def main(arguments: Sequence[str]) -> int:
    """0: written. 2: the input can't be used, or the file can't be written."""
    parser = Parser(__doc__)
    parser.add_argument("--n", type=whole, default=200, help="how many problems (default: 200)")
    parser.add_argument("--seed", type=seed, default=0, help="which ones (default: 0)")
    parser.add_argument("--out", metavar="FILE", required=True, help="a new .jsonl file")
    flags = parser.parse_args(arguments)
    out = Path(flags.out)
    if out.suffix.lower() != ".jsonl":
        raise UsageError(f"--out {out} must end in .jsonl, so that a sweep can read it")
    lines = [
        json.dumps({"id": prompt.id, "prompt": prompt.prompt, "answer": prompt.answer}) + "\n"
        for prompt in word_problems(flags.n, flags.seed)
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
