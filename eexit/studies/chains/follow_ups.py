"""Follow-up prompts of a finished sweep: the prefiller has edited thinking, and `group` is the original prompt's id.

The edits follow Lanham et al. 2023, "Measuring faithfulness in chain-of-thought reasoning". All edits, the whole chain
among them, end in the same closing words. So a chain that never closed is closed at its budget (budget forcing,
Muennighoff et al. 2025). An id has the original's id, the edit and the thinking's writer, as in `sum-3/keep-50/normal`;
without any thinking, it is `sum-3/keep-0`.
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
from eexit.results.study_tables import NO_CHAIN
from eexit.sweeps.generator import thinks

NEEDED: Final = ("prompt_id", "configuration", "status", "text", "n_thinking_tokens", "thinking_closed")
FILLER: Final = " ..."
SENTENCE_END: Final = regex.compile(r"((?<=[.!?])\s+|\n+)")


@dataclass(frozen=True)
class ThoughtChain:
    """Thinking in a text: its opening mark, empty if missing, and its tokens' texts."""

    opening: str
    tokens: Sequence[str]

    def prefiller(self, kept: str, closing: str) -> str:
        """Return the start of a follow-up answer: the edited thinking `kept`, from its opening to the closing words."""
        kept = kept.rstrip()
        return self.opening + kept + (closing if kept else closing.lstrip())


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


def follow_ups(sweep: FinishedSweep, writer: str, changes: ChainEdits) -> tuple[list[Prompt], int]:
    """Return the follow-up prompts of a sweep, and the number of its texts without thinking.

    The thinking is that of configuration `writer`, with the first seed. Raise `UsageError` without thinking.
    """
    config = sweep.config(with_exits=False)
    refuse_unknown([writer], [each["key"] for each in sweep.manifest.configurations], sweep.name)
    runs = sweep.runs.filter((pc.field("status") == OK) & (pc.field("configuration") == writer))
    if not pc.sum(runs["n_thinking_tokens"]).as_py():
        raise UsageError(
            f"{sweep.name} has no chains of {writer}, since its texts have no parts: run it with --thinking or "
            "--thinking-until, and with enough tokens"
        )
    tokenizer = load_tokenizer(config)
    marked = thinks(config, tokenizer)
    assert marked, "texts with thinking have marks"
    closing, chains = _closing_words(sweep, marked), _chains(sweep, writer, config.seeds[0], marked)
    kind_of = kinds(map(asdict, config.prompts))
    prompts = []
    for original in config.prompts:
        if chain := chains.get(original.id):
            start = config.prefiller_of(original)
            for name, kept in changes.apply(chain, tokenizer):
                by = f"/{writer}" if name != NO_CHAIN else ""
                follow_up = replace(original, id=f"{original.id}/{name}{by}", group=original.id)
                prefiller = start + chain.prefiller(kept, closing)
                prompts.append(replace(follow_up, prefiller=prefiller, kind=kind_of.get(original.id)))
    return prompts, sum(not chain.tokens for chain in chains.values())


def _closing_words(sweep: FinishedSweep, marked: ThinkingTags | AnswerPattern) -> str:
    """Return the closing mark that is most common in the sweep's texts, with the space before it.

    All configurations count, so that the chains of each are closed alike. Raise `UsageError` if no chain closes.
    """
    pattern = marked.pattern if isinstance(marked, AnswerPattern) else regex.escape(marked.closing)
    prefillers = sweep.manifest.of_prompts("prefiller")
    found: Counter[str] = Counter()
    for run in sweep.runs.filter(pc.field("thinking_closed")).to_pylist():
        text = prefillers[run["prompt_id"]] + run["text"]
        if match := first_match(pattern, text, "thinking_until"):
            found[text[len(text[: match.start()].rstrip()) : match.end()]] += 1
    if not found:
        raise UsageError(f"no chain in {sweep.name} closes: run it with a higher --max-new-tokens")
    return found.most_common(1)[0][0]


def _chains(
    sweep: FinishedSweep, writer: str, seed: int, marked: ThinkingTags | AnswerPattern
) -> dict[str, ThoughtChain]:
    """Return prompt id → the thinking that configuration `writer` wrote with `seed`; `marked` finds it in a text.

    Where a text has no thinking, its opening mark is the most common one of these texts.
    """
    prefillers = sweep.manifest.of_prompts("prefiller")
    columns = ["prompt_id", "configuration", "seed", "status", "text"]
    wanted = (pc.field("configuration") == writer) & (pc.field("seed") == seed) & (pc.field("status") == OK)
    found: dict[str, ThoughtChain] = {}
    for run, tokens in runs_with_tokens(sweep.store, columns, wanted, ["token", "part"]):
        if isinstance(marked, AnswerPattern):
            before = prefillers[run["prompt_id"]]
            found[run["prompt_id"]] = _until(marked, before, run["text"], tokens["token"].to_pylist())
        else:
            found[run["prompt_id"]] = _between(marked, run["text"], tokens.to_pylist())
    openings = Counter(chain.opening for chain in found.values() if chain.tokens)
    opening = max(openings, key=openings.__getitem__, default="")
    return {prompt_id: chain if chain.tokens else ThoughtChain(opening, ()) for prompt_id, chain in found.items()}


def _until(marked: AnswerPattern, before: str, text: str, tokens: Sequence[str]) -> ThoughtChain:
    match = first_match(marked.pattern, before + text, "thinking_until")
    end = len(text) if match is None else max(match.start() - len(before), 0)
    return ThoughtChain("", _within(tokens, 0, end))


def _between(marked: ThinkingTags, text: str, tokens: Sequence[Mapping[str, Any]]) -> ThoughtChain:
    """Return a text's first chain of thought, between the tags `marked`; the prompt may contain the opening tag."""
    pieces = [token["token"] for token in tokens]
    at = next((index for index, token in enumerate(tokens) if token["part"] == THINKING), None)
    if at is None:
        return ThoughtChain("", ())
    start = sum(map(len, pieces[:at]))
    opening = marked.opening if text.startswith(marked.opening, start) else ""
    start += len(opening)
    end = text.find(marked.closing, start)
    return ThoughtChain(opening, _within(pieces, start, len(text) if end < 0 else end))


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
