"""Follow-up prompts of a finished sweep: the prefiller has edited thinking, and `group` is the original prompt's id.

The edits follow Lanham et al. 2023, "Measuring faithfulness in chain-of-thought reasoning". An id has the original's
id, the edit and the thinking's writer, as in `sum-3/keep-50/normal`; without any thinking, it is `sum-3/keep-0`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, Final

import pyarrow.compute as pc
import regex

from eexit.errors import UsageError
from eexit.model.chat import Tokenizer
from eexit.model.loading import load_tokenizer
from eexit.plan.runs import OK
from eexit.plan.splits import kinds, shuffled
from eexit.plan.sweep_config import Prompt
from eexit.quality.grading import first_match
from eexit.quality.thinking import THINKING, AnswerPattern, ThinkingTags
from eexit.results.committed import runs_with_tokens
from eexit.results.finished_sweep import FinishedSweep, refuse_unknown
from eexit.sweeps.generator import thinks

NEEDED: Final = ("prompt_id", "configuration", "seed", "status", "n_thinking_tokens")
FILLER: Final = " ..."
SENTENCE_END: Final = regex.compile(r"((?<=[.!?])\s+|\n+)")


@dataclass(frozen=True)
class ThoughtChain:
    """Thinking in a text: its opening mark, its tokens' texts and its closing mark, each empty if missing."""

    opening: str
    tokens: Sequence[str]
    closing: str

    def prefiller(self, kept: str) -> str:
        """Return the start of a follow-up answer: the edited thinking `kept`, within the text's marks."""
        whole = "".join(self.tokens)
        if kept == whole:
            return self.opening + whole + self.closing
        end = whole[len(whole.rstrip()) :] or "\n"
        return self.opening + (kept.rstrip() + end if kept else "") + self.closing


@dataclass(frozen=True)
class ChainEdits:
    """Edits to make to each text's thinking."""

    keep: Sequence[int] = ()  # per cent of the tokens
    budgets: Sequence[int] = ()  # tokens
    filler: bool = False
    shuffle: bool = False

    def apply(self, chain: ThoughtChain, tokenizer: Tokenizer) -> Iterator[tuple[str, str]]:
        """Yield each edit's name and the edited thinking."""
        n = len(chain.tokens)
        for share in self.keep:
            yield f"keep-{share}", "".join(chain.tokens[: round(n * share / 100)])
        for most in self.budgets:
            yield f"budget-{most}", "".join(chain.tokens[:most])
        if self.filler:
            ids = tokenizer.encode(FILLER * n, add_special_tokens=False)[:n]
            yield "filler", str(tokenizer.decode(ids))
        if self.shuffle:
            yield "shuffle", _shuffled("".join(chain.tokens))


def follow_ups(sweep: FinishedSweep, reader: str, writer: str, changes: ChainEdits) -> tuple[list[Prompt], int]:
    """Return the follow-up prompts of a sweep, and the number of its texts without thinking.

    The thinking is that of configuration `writer`, with the first seed. Prompts that configuration `reader` lacks are
    left out. Raise `UsageError` without thinking.
    """
    config = sweep.config(with_exits=False)
    refuse_unknown([reader, writer], [each["key"] for each in sweep.manifest.configurations], sweep.name)
    runs = sweep.runs.filter((pc.field("status") == OK) & (pc.field("configuration") == writer))
    if not pc.sum(runs["n_thinking_tokens"]).as_py():
        raise UsageError(
            f"{sweep.name} has no chains of {writer}, since its texts have no parts: run it with --thinking or "
            "--thinking-until, and with enough tokens"
        )
    tokenizer = load_tokenizer(config)
    chains = _chains(sweep, writer, config.seeds[0], thinks(config, tokenizer))
    read = sweep.runs.filter((pc.field("status") == OK) & (pc.field("configuration") == reader))
    answered, kind_of = {*read["prompt_id"].to_pylist()}, kinds(map(asdict, config.prompts))
    prompts = []
    for original in config.prompts:
        if original.id in answered and (chain := chains.get(original.id)):
            start = config.prefiller_of(original)
            for name, kept in changes.apply(chain, tokenizer):
                by = f"/{writer}" if name != "keep-0" else ""
                follow_up = replace(original, id=f"{original.id}/{name}{by}", group=original.id)
                prompts.append(
                    replace(follow_up, prefiller=start + chain.prefiller(kept), kind=kind_of.get(original.id))
                )
    return prompts, sum(not chain.tokens for chain in chains.values())


def _chains(
    sweep: FinishedSweep, writer: str, seed: int, marked: ThinkingTags | AnswerPattern | None
) -> dict[str, ThoughtChain]:
    """Return the thinking of each prompt, with the commonest marks in place of missing ones."""
    prefillers = sweep.manifest.of_prompts("prefiller")
    columns = ["prompt_id", "configuration", "seed", "status", "text"]
    wanted = (pc.field("configuration") == writer) & (pc.field("seed") == seed) & (pc.field("status") == OK)
    found: dict[str, ThoughtChain] = {}
    for run, tokens in runs_with_tokens(sweep.store, columns, wanted, ["token", "part"]):
        if isinstance(marked, AnswerPattern):
            before = prefillers[run["prompt_id"]]
            found[run["prompt_id"]] = _until(marked, before, run["text"], tokens["token"].to_pylist())
        elif marked:
            found[run["prompt_id"]] = _between(marked, run["text"], tokens.to_pylist())
    openings = Counter(chain.opening for chain in found.values() if chain.tokens)
    closings = Counter(chain.closing for chain in found.values() if chain.closing)
    if not closings:
        raise UsageError(f"no chain of {writer} in {sweep.name} closes: run it with a higher --max-new-tokens")
    [(opening, _)], [(closing, _)] = openings.most_common(1), closings.most_common(1)
    return {
        prompt_id: replace(chain, opening=chain.opening if chain.tokens else opening, closing=chain.closing or closing)
        for prompt_id, chain in found.items()
    }


def _until(marked: AnswerPattern, before: str, text: str, tokens: Sequence[str]) -> ThoughtChain:
    match = first_match(marked.pattern, before + text, "thinking_until")
    end = len(text) if match is None else max(match.start() - len(before), 0)
    return ThoughtChain("", _within(tokens, 0, end), match[0] if match else "")


def _between(marked: ThinkingTags, text: str, tokens: Sequence[Mapping[str, Any]]) -> ThoughtChain:
    """Return the first chain of thought of a text; the prompt may contain its opening mark."""
    pieces = [token["token"] for token in tokens]
    at = next((index for index, token in enumerate(tokens) if token["part"] == THINKING), None)
    if at is None:
        return ThoughtChain("", (), "")
    start = sum(map(len, pieces[:at]))
    opening = marked.opening if text.startswith(marked.opening, start) else ""
    start += len(opening)
    end = text.find(marked.closing, start)
    return ThoughtChain(
        opening, _within(pieces, start, len(text) if end < 0 else end), "" if end < 0 else marked.closing
    )


def _within(tokens: Sequence[str], start: int, end: int) -> list[str]:
    """Return the tokens' texts between two characters of their concatenation."""
    text, ends = "".join(tokens), [0, *accumulate(map(len, tokens))]
    return [text[max(a, start) : min(b, end)] for a, b in pairwise(ends) if max(a, start) < min(b, end)]


def _shuffled(whole: str) -> str:
    """Return the thinking with its sentences in another order, if it has several sentences."""
    kept = whole.rstrip()
    parts = SENTENCE_END.split(kept)
    order = shuffled(parts[::2])
    parts[::2] = [parts[::2][at] for at in (order if order != sorted(order) else order[::-1])]
    return "".join(parts) + whole[len(kept) :]
