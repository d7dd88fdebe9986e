"""Have a language model judge the texts of a sweep, through any OpenAI-compatible endpoint.

    export OPENAI_API_KEY=…
    python jobs/judge.py results/mine --base-url https://api.openai.com/v1 --model gpt-4.1-mini --dry-run
    python jobs/judge.py results/mine --base-url https://api.openai.com/v1 --model gpt-4.1-mini
    python jobs/judge.py results/mine --base-url https://example.org/v1 --model qwen3-32b --key-from EXAMPLE_KEY
    python jobs/judge.py results/mine --base-url http://localhost:8000/v1 --model qwen3-32b --no-key --pairwise

The judge scores coherence, completeness, clarity and freedom from repetition, from 1 to 5 each. It is never told which
configuration wrote a text. Equal texts of a prompt are asked about once, and get equal scores. With --pairwise, it also
says whether the text or that of the prompt's normal run of the same seed is better, in an order that a hash draws.

What is judged lands in the folder judgements beside the results, and is not asked for again: Ctrl-C loses nothing, and
the same command goes on. Texts of which the endpoint made nothing become rows with the error, and are tried again by
the next call. An unfinished sweep is judged as far as it has landed, also while it runs; a second call that would judge
the same results at the same time is refused.
"""

import os
import re
import sys
from argparse import SUPPRESS, ArgumentTypeError, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cluster.console.command import command
from cluster.console.display import console_of, open_display
from cluster.console.flags import number, study_parser, whole
from eexit.errors import UsageError
from eexit.output.locations import shown, without_secrets
from eexit.output.text import counted
from eexit.quality.rubric import RESPONSE_FORMATS, RUBRIC
from eexit.studies.judging.endpoint import JudgeModel, KeptReplies, require_client

if TYPE_CHECKING:
    from eexit.studies.judging.judge import Judging
    from eexit.studies.judging.plan import JudgingPlan

KEY_FROM = "OPENAI_API_KEY"
CONCURRENCY = 8
THE_ENDPOINTS = "endpoint"  # in place of a temperature


@command("what was judged stays in judgements: the same command goes on from there")
def main(arguments: Sequence[str]) -> int:
    """0: all is judged, but for errors. 1: it stopped, or all it asked was in vain. 2: the input can't be used."""
    flags = read_flags(arguments)
    from eexit.results.store.finished_sweep import manifest_of
    from eexit.results.store.folder import open_store
    from eexit.results.store.lease import JUDGING, hold
    from eexit.studies.judging.judge import judge_sweep
    from eexit.studies.judging.plan import describe_judging

    if flags.dry_run:
        print(describe_judging(plan_of(flags)))
        return 0
    store, judge = open_store(flags.results), judge_of(flags)
    manifest_of(store, shown(flags.results))  # a folder that holds no sweep gets no lease
    store.probe("the folder")
    replies, display = KeptReplies(), open_display(quiet=flags.quiet)
    try:
        with hold(store, use=JUDGING) as lease:
            plan = plan_of(flags)  # what another call has judged meanwhile is not asked for
            judging = judge_sweep(plan, judge, flags.concurrency, display, lease, replies)
    finally:
        if replies.told:
            print(replies.told, file=sys.stderr)
    return finish(flags.results, plan, judging)


def plan_of(flags: Namespace) -> "JudgingPlan":
    from eexit.studies.judging.plan import plan_judging

    orders = (2 if flags.both_orders else 1) if flags.pairwise else 0
    return plan_judging(flags.results, flags.model, flags.configurations, flags.limit, orders)


def finish(results: str, plan: "JudgingPlan", judging: "Judging") -> int:
    """Print the table and how to read the judgements; returns the exit code."""
    from eexit.results.study_tables import JUDGEMENTS
    from eexit.studies.judging.table import by_configuration, in_pandas, judgements_table

    of_judge = [row for row in JUDGEMENTS.rows(plan.store) if (row["judge"], row["rubric"]) == (plan.judge, RUBRIC)]
    console = console_of(columns=110)
    found = by_configuration(of_judge, plan.keys, plan.groups)
    console.print(judgements_table(found, len({row["seed"] for row in of_judge})))
    print("\n".join(in_pandas(results, is_paired=any(row["preferred"] is not None for row in of_judge))))
    if judging.errors:
        failed = f"{counted(judging.errors, 'run')} got no judgement, such as: {judging.reason}"
        print(without_secrets(f"{failed}; the same command tries again"), file=sys.stderr)
    return 1 if judging.errors and not judging.judged else 0


def judge_of(flags: Namespace) -> JudgeModel:
    """Whom to ask. Raises `UsageError` if that can't work; nothing is sent before."""
    if not re.match(r"https?://[^/\s]", flags.base_url):
        raise UsageError(f"--base-url must begin with http:// or https://, got {flags.base_url.rpartition('@')[2]}")
    refuse_no_address(flags.base_url)
    require_client()
    key, key_from = read_key(flags)
    return JudgeModel(
        flags.base_url, flags.model, key, key_from, flags.timeout, flags.temperature, flags.response_format
    )


def refuse_no_address(url: str) -> None:
    """Raises `UsageError` if no connection could ever be made to this URL."""
    try:
        parts = urlsplit(url)
        is_one = bool((parts.hostname or "").encode("idna")) and parts.port != 0 and url.isprintable()
    except ValueError:  # which would show what may be a password
        is_one = False
    if not is_one:
        needed = "it needs a host, and a port between 1 and 65535 if any, as in http://localhost:8000/v1"
        raise UsageError(f"--base-url {shown(url)} is no address: {needed}")


def read_key(flags: Namespace) -> tuple[str | None, str | None]:
    """The key, and what it comes from. Raises `UsageError`, which never shows what might be a key, if there is none."""
    if flags.no_key:
        return None, None
    name = flags.key_from
    where = name if name == KEY_FROM else "the environment variable that --key-from names"
    key = os.environ.get(name, "").strip()
    if not key:
        raise UsageError(f"{where} is not set: set it to the endpoint's key, or say --no-key if it needs none")
    if not re.fullmatch("[!-~]+", key):
        raise UsageError(f"{where} holds characters that no key has, such as spaces: set it to the key alone")
    return key, where


def read_flags(arguments: Sequence[str]) -> Namespace:
    parser = study_parser(__doc__, "folder or URI of a sweep")
    parser.add_argument("--base-url", required=True, metavar="URL", help="where the endpoint is, up to its /v1")
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="the model that judges, as the endpoint calls it"
    )
    parser.add_argument("--key-from", default=KEY_FROM, metavar="NAME", help=f"environment variable ({KEY_FROM})")
    parser.add_argument("--key", "--api-key", dest="key", help=SUPPRESS)  # to be refused without being shown
    parser.add_argument("--no-key", action="store_true", help="the endpoint needs no key, and is sent none")
    parser.several("--configurations", "KEY", "keys of configurations, as in the sweep's table (default: all)")
    parser.add_argument(
        "--limit", type=whole, metavar="N", help="judge N prompts only: a hash draws them, of each sort its share"
    )
    parser.add_argument("--pairwise", action="store_true", help="compare each text with that of normal, too")
    parser.add_argument(
        "--both-orders",
        action="store_true",
        help="with --pairwise: compare in both orders, which takes two questions; if they disagree, it is a tie",
    )
    parser.add_argument(
        "--concurrency", type=whole, default=CONCURRENCY, metavar="N", help=f"questions at a time ({CONCURRENCY})"
    )
    parser.add_argument("--timeout", type=_seconds, default=60.0, metavar="S", help="seconds for one answer (60)")
    parser.add_argument(
        "--temperature",
        type=_temperature,
        default=0.0,
        metavar="T",
        help=f"of the judge (0); {THE_ENDPOINTS}: its own, for models that take none",
    )
    parser.add_argument(
        "--response-format",
        choices=RESPONSE_FORMATS,
        default=RESPONSE_FORMATS[0],
        help="how the answer's form is asked for, beside words: as a schema (json_schema), as any JSON, or not at all; "
        "an endpoint that refuses one is told of, and no other is tried unasked",
    )
    parser.add_argument("--dry-run", action="store_true", help="print how much would be asked, and ask nothing")
    parser.add_argument("--quiet", action="store_true", help="show no progress, only results and problems")
    flags = parser.read(arguments)
    if flags.key is not None:
        raise UsageError("a key on a command line can be seen by others: set OPENAI_API_KEY, or name yours: --key-from")
    if flags.both_orders and not flags.pairwise:
        raise UsageError("--both-orders is about comparisons: add --pairwise")
    return flags


def _seconds(text: str) -> float:
    seconds = number(text)
    if not 0 < seconds < float("inf"):
        raise ArgumentTypeError(f"must be seconds above 0, got {text}")
    return seconds


def _temperature(text: str) -> float | None:
    if text == THE_ENDPOINTS:
        return None
    temperature = number(text)
    if not 0 <= temperature < float("inf"):
        raise ArgumentTypeError(f"must be ≥ 0 or {THE_ENDPOINTS}, got {text}")
    return temperature


if __name__ == "__main__":
    sys.exit(main())
