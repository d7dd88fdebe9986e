"""What is recorded: sweeps of four small models, everything that is done with one of them, and what is printed."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq
import pytest
import torch
from byte_model import save_family
from golden.collecting import Recording, collapsed, without_volatile
from golden.digests import Digests, Record, without_floats
from judge_server import judging
from ray_fixtures import started_ray

from eexit.plan.artefacts import CARD, parse_card, write_card
from jobs import find_scripts

SCRIPTS: Final = sorted(path.stem for path in find_scripts().values())
# Rules with parameters with which they exit here and there: on a Llama, on others, and on one with peaked logits.
LLAMA: Final = "kl=0.5,2 agree confidence=0.1,0.2 margin=0.05 entropy=4 similarity=0.7,0.85 patience=2 fixed=3"
OTHERS: Final = "kl=0.5,2 agree confidence=0.2 margin=0.1 entropy=3.7 similarity=0.85 patience=2 fixed=3"
GEMMA: Final = "kl=0.5,6 agree confidence=0.9 margin=0.8 entropy=0.7 similarity=0.95 patience=3 fixed=3"
MODELS: Final = {"llama": LLAMA, "gemma3": GEMMA, "gpt_neox": OTHERS, "qwen3_moe": OTHERS}
MODES: Final = ("normal", "unfrozen", "frozen_residual", "frozen_cache", "skip")
COMMON: Final = ("--dtype", "float32", "--exit-layers", "1", "3", "4", "--max-new-tokens", "12", "--device", "cpu")
PROMPTS: Final = ("Why?", "Count to ten.", 'A <b> & "é"')
STUDY: Final = ("--modes", "normal", "unfrozen", "skip", "--rules", "kl=1", "confidence=0.1,0.2", "patience=2")
N_QUESTIONS: Final = 20


def recorded(keep: Path | None = None) -> Digests:
    """The digests of everything; what they are of goes to the folder `keep`."""
    with scratch() as patch:
        recording = Recording(Record(keep.resolve() if keep else None))
        for script in SCRIPTS:
            recording.help(script)
        save_time(patch)
        for architecture in MODELS:
            save_family(Path("models", architecture), architecture)
        write_prompts()
        temporary = tempfile.mkdtemp(prefix="golden-")  # short: Ray's socket names are limited
        with started_ray({"RAY_TMPDIR": temporary, "RAY_AUTH_MODE": "disabled"}):
            sweeps_of_models(recording)
            with judging() as judge:
                studies(recording, judge.url)
            learned(recording)
        shutil.rmtree(temporary, ignore_errors=True)
    return recording.record.digests


@contextmanager
def scratch() -> Iterator[pytest.MonkeyPatch]:
    """A folder of its own to work in, and an environment in which what is printed is always the same."""
    with tempfile.TemporaryDirectory(prefix="golden-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "100")
        patch.setenv("OPENAI_API_KEY", "a-key")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield patch
        torch.set_num_threads(threads)


def save_time(patch: pytest.MonkeyPatch) -> None:
    """Have no report built that is not read."""
    patch.setattr("jobs.sweep.write_report", lambda results, store: None)


def write_prompts() -> None:
    Path("prompts.txt").write_text("\n".join(PROMPTS))
    questions = [
        {"id": f"{n}", "prompt": f"prompt {n}", **({"answer_pattern": "[aeiou]"} if n % 4 else {})}
        for n in range(N_QUESTIONS)
    ]
    Path("questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))


def sweeps_of_models(recording: Recording) -> None:
    """All rules in all modes and drafts, two seeds, for each model; and sampled."""
    for architecture, rules in MODELS.items():
        of = ("--model", f"models/{architecture}", "--prompts", "prompts.txt", "--seeds", "0", "1", *COMMON)
        recording.sweep(
            architecture,
            *(*of, "--modes", *MODES, "--rules", *rules.split(), "--draft", "1,3:2", "--record-top-k", "2"),
            *("--json", "figures.json"),
        )
        recording.add(f"figures of {architecture}", json.loads(Path("figures.json").read_text()))
    of = ("--model", "models/llama", "--prompts", "prompts.txt", "--seeds", "0", "1", *COMMON)
    sampled = ("--temperature", "0.9", "--top-p", "0.8", "--system", "Be brief.", "--draft", "3:2")
    recording.sweep("sampled", *of, *STUDY, *sampled)
    recording.page("llama")


def learned(recording: Recording) -> None:
    """Everything that can be trained, and sweeps with it. None of its numbers holds everywhere."""
    for what, flags in (("linear", ()), ("probe", ("--readout", "exits/linear"))):
        said = recording.run("train", "results/study", "--what", what, "--out", f"exits/{what}", *flags)
        recording.add(f"train {what}: printed", said, None)
        recording.add(f"train {what}: card", without_volatile(steadied(Path("exits", what))), None)
    of = ("--model", "models/llama", *COMMON, "--prompts", "prompts.txt", "--seeds", "0", "1", "--modes", *MODES)
    read = ("--readout", "exits/linear", "--probe", "exits/probe", "--rules", "predicted_kl=0.5,2", "kl=1")
    recording.sweep("learned", *of, *read, "--draft", "3:2", everywhere=False)
    recording.page("learned", everywhere=False)


def steadied(folder: Path) -> dict[str, Any]:
    """The card of what was trained, with fixed times, which pages show."""
    card = parse_card((folder / CARD).read_bytes())
    write_card(folder, card.model_copy(update={"made": "2026-01-01T00:00:00+00:00", "seconds": 1.0}))
    held: dict[str, Any] = json.loads((folder / CARD).read_text())
    return held


def studies(recording: Recording, judge: str) -> None:
    """A sweep with answers and controls, and all that can be done with a finished sweep."""
    recording.sweep(
        "study",
        *("--model", "models/llama", "--prompts", "questions.jsonl", "--seeds", "0", "1", *COMMON),
        *(*STUDY, "--controls-of", "results/sampled"),
    )
    study = "results/study"
    recording.command("replay", study, "--kl-factors", "0.25:4:3", "--rules", "confidence=0.1:0.3:3", "fixed=3")
    asked = (study, "--base-url", judge, "--model", "a-judge")
    recording.command("judge", *asked)
    recording.command("choose", study, "--risk", "disagreement", "--at-most", "0.95", "--confidence", "0.5")
    recording.command("choose", study, "--risk", "answers", "--at-most", "0.05", name="choose answers")
    recording.tables("study", "replays", "judgements", "choices")
    recording.page("study")
    few = ("--prompts", "2", "--tokens", "4", "--rounds", "2", "--configurations", "skip/confidence/0.1")
    said = recording.run("timings", study, "--batch", "1", "3", *few)
    said = re.sub("[-−–]?#%?", "#", without_floats(said))  # no times, no signs of savings
    recording.add("timings: printed", collapsed(said), collapsed(said))
    recording.tables("study", "timings")
    recording.command("export", study, "--out", "data", "--kl-factors", "0.5", "1")
    recording.rows("export", [pq.read_table(path) for path in sorted(Path("data").glob("*.parquet"))])
    recording.command("make_prompts", "--n", "20", "--out", "drawn.jsonl")
    recording.add("drawn prompts", Path("drawn.jsonl").read_text(), Path("drawn.jsonl").read_text())
