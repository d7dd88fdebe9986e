"""Write FINDINGS.md and what README says of it, from the tables of the study that lie beside FINDINGS.md.

    python jobs/bench findings                   from reports/sample/study
    python jobs/bench findings --from results    take those of the study's results that are there first

Every number of both is computed here; PLAN.md, which was committed before the study ran, says what each outcome is
called. What FINDINGS.md says from its commands on is written by hand, and stays.
"""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cluster.console.flags import Parser
from eexit.output.whole_files import write_whole
from findings import alternatives, parts, reasoning, states, student
from findings.study import HOME, take

WIDTH: Final = 120
README: Final = HOME.parents[1] / "README.md"
FINDINGS: Final = HOME / "FINDINGS.md"
BY_HAND: Final = "## The commands\n"  # begins what is
BEGIN, END = "<!-- findings: written by python jobs/bench findings -->\n", "<!-- end of findings -->"

SECTIONS: Final = (
    parts.title, parts.answer, parts.announced, parts.by_kind, parts.ledger, states.pilot, states.maps, parts.time,
    alternatives.lookups, alternatives.cuts, parts.first_question, parts.long_texts, parts.learned, student.section,
    reasoning.section, parts.grading,
)  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """0: written. 2: the input can't be used."""
    parser = Parser(__doc__)
    parser.add_argument("--from", dest="results", metavar="FOLDER", help="the study's results, whose tables are taken")
    if results := parser.read(arguments).results:
        take(Path(results))
    write_whole(FINDINGS, findings())
    write_whole(README, with_summary(README.read_text("utf-8")))
    print(FINDINGS)
    return 0


def findings() -> str:
    """The whole of FINDINGS.md."""
    _, begin, by_hand = FINDINGS.read_text("utf-8").partition(BY_HAND)
    return "\n\n".join([*(filled(section()) for section in SECTIONS), begin + by_hand])


def with_summary(readme: str) -> str:
    """README with what it says of the study between its two marks. Raises `ValueError` if they are not there."""
    before, _, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"README.md lacks the marks {BEGIN.strip()} and {END}")
    told = parts.summary() + alternatives.summary() + student.summary()
    return f"{before}{BEGIN}{filled(told)}\n{END}{after}"


def filled(markdown: str) -> str:
    """Each paragraph and list entry in lines of a width, headings, tables and code as they are."""
    blocks = re.split(r"\n{2,}|\n(?=- )", markdown.strip())
    return "\n\n".join(_filled(block) for block in blocks).replace("\n\n- ", "\n- ")


def _filled(block: str) -> str:
    if block.startswith(("#", "|", "```")):
        return block
    indent = "  " if block.startswith("- ") else ""
    return textwrap.fill(" ".join(block.split()), WIDTH, subsequent_indent=indent, break_on_hyphens=False)
