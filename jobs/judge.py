"""Score a sweep's texts with a language model, through any OpenAI-compatible endpoint.

    export OPENAI_API_KEY=…
    eexit judge results/mine --base-url https://api.openai.com/v1 --model gpt-4.1-mini --dry-run
    eexit judge results/mine --base-url https://api.openai.com/v1 --model gpt-4.1-mini
    eexit judge results/mine --base-url http://localhost:8000/v1 --model qwen3-32b --no-key

The judge scores coherence, completeness, clarity and freedom from repetition, from 1 to 5 each, without the name of the
configuration. Equal texts of a prompt are judged once and get equal scores.

Judgements are stored in the folder judgements of the results and never requested again. After Ctrl-C, the same command
resumes. Texts that the endpoint could not judge become rows with the error, and are retried by the next call. Of an
unfinished sweep, all committed runs are judged. Only one call at a time judges the same results.
"""

import os
import re
import sys
from argparse import SUPPRESS, ArgumentTypeError, Namespace
from collections.abc import Sequence
from typing import Any

from pydantic import HttpUrl, ValidationError

from cluster.console.command import command
from cluster.console.flags import number, quiet_flag, study_parser, whole
from eexit.errors import UsageError
from eexit.output.display import console_of, open_display
from eexit.output.locations import read_snippet, redact, without_secrets
from eexit.output.text import pluralize
from eexit.plan.runs import ERROR, OK

KEY_FROM = "OPENAI_API_KEY"
CONCURRENCY, TIMEOUT = 8, 60
RESPONSE_FORMATS = ("json_schema", "json_object", "text")
THAT_COUNT = (
    ".query(\"status == 'ok'\").sort_values('started').drop_duplicates(['run_id', 'judge', 'rubric'], keep='last')"
)
THE_ENDPOINTS = "endpoint"  # instead of a temperature


@command("scores stay in judgements: the same command resumes from them")
def main(arguments: Sequence[str]) -> int:
    """Run `eexit judge`.

    Return 0 if texts were judged or judged before, 1 if it stopped or all questions failed, 2 for bad input.
    """
    flags = read_flags(arguments)
    key = None if flags.dry_run or flags.no_key else read_key(flags.key_from)
    try:
        from eexit.studies import judging
    except ImportError as error:
        raise UsageError("judging needs the package openai: pip install 'eexit[judge]'") from error
    from eexit.results.finished_sweep import manifest_of
    from eexit.results.store.folder import open_store
    from eexit.results.store.lease import JUDGING, hold

    asked = (flags.results, flags.model, flags.configurations, flags.limit)
    if flags.dry_run:
        print(judging.plan_judging(*asked).told)
        return 0
    how: dict[str, Any] = {} if flags.temperature is None else {"temperature": flags.temperature}
    if flags.response_format != RESPONSE_FORMATS[0]:
        how["response_format"] = {"type": flags.response_format}
    judge = judging.JudgeClient(flags.base_url, key, flags.timeout, model=flags.model, **how)
    store, display = open_store(flags.results), open_display(quiet=flags.quiet)
    manifest_of(store, redact(flags.results))  # a folder without a sweep gets no lease
    store.probe("the folder")
    with hold(store, use=JUDGING) as lease:
        plan = judging.plan_judging(*asked)  # planned under the lease: another call may have judged texts meanwhile
        done = judging.judge_sweep(plan, judge, flags.concurrency, display, lease)
    rows = judging.judged_by(store, flags.model)
    console_of(columns=110).print(judging.judgements_table(rows, plan.keys, plan.unit_of))
    print(read_snippet(flags.results, "judgements", "judged", THAT_COUNT))
    if n_errors := done.counts[ERROR]:
        failed = f"{pluralize(n_errors, 'run')} got no judgement, such as: {done.reason}"
        print(without_secrets(f"{failed}; the same command tries again"), file=sys.stderr)
    return 1 if n_errors and not done.counts[OK] else 0


def read_key(name: str) -> str:
    """Return the key in this environment variable. Raise `UsageError`, which never shows a possible key."""
    where = name if name == KEY_FROM else "the environment variable that --key-from names"
    key = os.environ.get(name, "").strip()
    if not re.fullmatch("[!-~]+", key):
        raise UsageError(f"{where} is not set to a key alone: set it, or give --no-key if the endpoint needs none")
    return key


def read_flags(arguments: Sequence[str]) -> Namespace:
    parser = study_parser(__doc__, "folder or URI of a sweep")
    add = parser.add_argument
    add("--base-url", type=_address, required=True, metavar="URL", help="address of the endpoint, up to /v1")
    add("--model", required=True, metavar="NAME", help="the judge, as the endpoint names it")
    add("--key-from", default=KEY_FROM, metavar="NAME", help=f"environment variable with the key ({KEY_FROM})")
    add("--key", "--api-key", dest="key", help=SUPPRESS)  # refused without being shown
    add("--no-key", action="store_true", help="send no key")
    parser.several("--configurations", "KEY", "keys of configurations, as in the sweep's table (default: all)")
    add("--limit", type=whole, metavar="N", help="judge only N prompts, drawn by a hash, each kind in proportion")
    add("--concurrency", type=whole, default=CONCURRENCY, metavar="N", help=f"concurrent requests ({CONCURRENCY})")
    add("--timeout", type=whole, default=TIMEOUT, metavar="S", help=f"seconds for a complete reply ({TIMEOUT})")
    temperature = f"sampling temperature of the judge (0); {THE_ENDPOINTS}: send none"
    parser.single("--temperature", "T", temperature, type=_temperature, default=0.0)
    form = "response_format of the request"
    add("--response-format", choices=RESPONSE_FORMATS, default=RESPONSE_FORMATS[0], help=form)
    add("--dry-run", action="store_true", help="print the number of requests and send none")
    quiet_flag(parser)
    flags = parser.read(arguments)
    if flags.key is not None:
        raise UsageError("a key on a command line can be seen by others: set OPENAI_API_KEY, or name yours: --key-from")
    return flags


def _address(url: str) -> str:
    try:
        HttpUrl(url)
    except ValidationError as error:  # whose message would show a possible password
        reason = error.errors()[0]["msg"]
        raise ArgumentTypeError(f"must be an address such as http://localhost:8000/v1: {reason}") from None
    return url


def _temperature(text: str) -> float | None:
    what = f"≥ 0 or {THE_ENDPOINTS}"
    return None if text == THE_ENDPOINTS else number(text, lambda value: 0 <= value < float("inf"), what)


if __name__ == "__main__":
    sys.exit(main())
