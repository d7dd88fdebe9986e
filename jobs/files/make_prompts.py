"""Draw prompts with answers, independently and from one distribution, and write them to a file.

    eexit make-prompts --n 2000 --seed 0 --out drawn.jsonl
    eexit sweep --prompts drawn.jsonl --max-new-tokens 32 --out results/drawn
    eexit make-prompts --n 200 --steps --out steps.jsonl
    eexit sweep --prompts steps.jsonl --max-new-tokens 256 --thinking-until "(?i)answer:" --out results/steps

A kind is drawn first, then a prompt of this kind: eexit/plan/prompt_kinds/generators.py has the kinds. No two prompts
share a fact. A seed always gives the same prompts; a smaller --n gives the first of them. With --steps, prompts request
a chain of thought that ends with "Answer:", and column steps has the number of steps to the answer.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.console.command import command
from cluster.console.flags import seed, whole
from cluster.console.parser import Parser
from eexit.errors import UsageError, first_line
from eexit.output.text import did_you_mean

if TYPE_CHECKING:
    from eexit.plan.sweep_config import Prompt


@command()
def main(arguments: Sequence[str]) -> int:
    """Run `eexit make-prompts`. Return 0 if the prompts were written, 2 for bad input or an unwritable file."""
    parser = Parser(__doc__)
    parser.add_argument("--n", type=whole, default=2000, help="number of prompts (default: 2000)")
    parser.add_argument("--seed", type=seed, default=0, help="random seed (default: 0)")
    which = "draw multi-step prompts, of these kinds (default: of all)"
    parser.add_argument("--steps", nargs="*", metavar="KIND", help=which)
    parser.add_argument("--out", metavar="FILE", required=True, help="a new .jsonl file")
    flags = parser.read(arguments)
    from eexit.plan.prompt_kinds.generators import KINDS, draw_prompts
    from eexit.plan.prompt_kinds.multi_step import IN_STEPS

    stepped = {kind.name: kind for kind in IN_STEPS}
    if unknown := [name for name in flags.steps or () if name not in stepped]:
        meant = did_you_mean(unknown[0], stepped, f"there are {', '.join(stepped)}", most=1)
        raise UsageError(f"--steps {unknown[0]}: no such kind needs steps: {meant}")
    kinds = KINDS if flags.steps is None else [stepped[name] for name in dict.fromkeys(flags.steps or stepped)]
    print(write_prompts(flags.out, draw_prompts(flags.n, flags.seed, kinds)))
    return 0


def write_prompts(out: str, prompts: Sequence["Prompt"]) -> Path:
    """Write prompts to a new file that a sweep can read, and return its path. Raise `UsageError`."""
    from eexit.output.atomic_files import write_atomic
    from eexit.results.owned_folders import refuse_for_file

    path = Path(out)
    if path.suffix.lower() != ".jsonl":
        raise UsageError(f"--out {path} must end in .jsonl, so that a sweep can read it")
    lines = [
        json.dumps({column: value for column, value in asdict(prompt).items() if value is not None}) + "\n"
        for prompt in prompts
    ]
    try:
        refuse_for_file(out, "--out")
        if path.exists() and path.stat().st_size:  # a full disk may leave an empty one
            raise UsageError(f"--out {path} is there already: choose another name")
        write_atomic(path, "".join(lines))
    except OSError as error:
        raise UsageError(f"--out {path} can't be written ({first_line(error)})") from error
    return path


if __name__ == "__main__":
    sys.exit(main())
