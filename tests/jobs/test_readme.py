"""The README's blocks of code run as they are printed, one after the other in one folder, with small sizes.

All is run in this process, the one actor too. The default model is a small random one here, whose layers have the same
numbers, and the files of prompts are shorter. What is given besides is in `SMALLER` and `INSTEAD`, and what can't be
run here in `LEFT_OUT`, with the reasons. A line that is new in the README is run, or fails here.
"""

import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import platformdirs
import pytest
from byte_model import save_byte_model
from commands import asked_here, here
from judge_server import judging
from ray_here import RayHere

from eexit.model import loading
from eexit.model.sources import DEFAULT_MODEL
from eexit.plan import model_inspection
from jobs import find_scripts, module_of, sweep

ROOT = Path(__file__).parents[2]
# In the order in which their blocks are run.
FILES = tuple(ROOT / folder / "README.md" for folder in (".", "jobs", "eexit", "cluster", "reports"))
N_LAYERS = 30  # as the default model has, so that layers can be named as they are printed
N_PROMPTS = 7  # of each file of prompts, or one more: two at least are held out, and some are for reporting
# Flags that are added to a command with these words, behind its own, where the last one counts.
SMALLER = {
    "eexit sweep": ["--max-new-tokens", "4"],  # as many as the longest draft has
    "eexit timings": ["--prompts", "1", "--batch", "1", "--tokens", "3", "--rounds", "1", "--calls", "2"],
    "eexit timings results/grid": ["--configurations", "skip/patience/2"],
    "eexit make-prompts": ["--n", "8"],
    "--gate-thresholds 0": ["--gate-thresholds", "0.1", "perfect"],
    "confidence=0.5:0.95:10": ["--rules", "confidence=0.5:0.95:2"],
    "eexit choose": ["--max-risk", "0.999"],  # so few prompts certify no lower bound
}
JUDGE_URL = "http://the.judge"
# What is printed, and what is given in its place.
INSTEAD = {
    "kl_factors=[0.5, 1]": "kl_factors=[0.5, 1], max_new_tokens=4",
    '"confidence": [0.7, 0.9]}': '"confidence": [0.7, 0.9]}, max_new_tokens=4',
    "max_new_tokens=100": "max_new_tokens=4",
    "--draft 10,20:2,4": "--draft 20:2,4",
    "predicted_kl=0.5,1,2,4 fixed=10,20": "predicted_kl=1 fixed=10",
    "Qwen/Qwen3-0.6B": DEFAULT_MODEL,  # a model of the hub
    "https://api.openai.com/v1": JUDGE_URL,
    "OPENAI_API_KEY=…": "OPENAI_API_KEY=a-key",
}
LEFT_OUT = {
    # Data of the hub; tests/eexit/studies/harness runs it on a task of its own.
    "python -m eexit.studies.harness --model eexit --tasks arc_easy gsm8k      --model_args "
    "pretrained=HuggingFaceTB/SmolLM2-135M,mode=frozen_residual,rule=confidence,parameter=0.9",
    # Random weights close no chain of thought; tests/eexit/studies/chains runs them.
    "eexit chains results/steps --configuration normal --keep 0 50 100 --filler --out chains.jsonl",
    'eexit sweep --prompts chains.jsonl --thinking-until "(?i)answer:" --max-new-tokens 256 --out results/chains',
    "eexit chains results/steps --necessity results/chains",
    "eexit chains results/steps --configuration unfrozen/kl/2 --keep 0 50 100 --filler --out chains-kl-2.jsonl",
    'eexit sweep --prompts chains-kl-2.jsonl --only unfrozen/kl/2 --thinking-until "(?i)answer:" --max-new-tokens 256 '
    "     --out results/chains-kl-2",
    "eexit chains results/steps --necessity results/chains results/chains-kl-2",
    # The environment of the tests stays as it is; .ci/run installs the package.
    *("pip install -e .", "pip install -e '.[test]'", "pip install -e '.[judge]'", "pip install -e '.[lm-eval]'"),
    "pytest",
    # Many sweeps one after the other; tests/cluster/assessment runs them.
    *("eexit assess", "eexit assess --model Qwen/Qwen3-0.6B --prompts mine.jsonl --out results/assess"),
    # Ports that only one test at a time can use; test_submit.py runs them.
    "ray start --head --dashboard-agent-listen-port 0",
    "ray job submit --address http://127.0.0.1:8265 --working-dir . -- python jobs/sweep.py --out /abs/path",
}
MINE = "id,prompt,answer\nrome,What is the capital of Italy?,Rome\nsum,How much is 2 + 2?,4\n"


FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS: list[tuple[str, str, str]] = [  # where each begins, its language, and its content
    (f"{file.name}:{text.count(chr(10), 0, found.start()) + 1}", found[1], found[2])
    for file, text in zip(FILES, map(Path.read_text, FILES), strict=True)
    for found in FENCED.finditer(text)
]


def commands_in(block: str) -> list[str]:
    """Return the commands of a block of shell, each as it is printed, without what joins them."""
    lines = [re.sub(r"(^|\s)#.*", "", line) for line in block.replace("\\\n", " ").splitlines()]
    return [command.strip() for line in lines for command in line.split("&&") if command.strip()]


def test_every_block_is_run_and_every_exception_is_one_of_a_printed_line() -> None:
    assert {language for _, language, _ in BLOCKS} == {"sh", "python"}
    printed = [command for _, language, block in BLOCKS if language == "sh" for command in commands_in(block)]
    assert {*printed} >= LEFT_OUT, "left out, but not printed"
    assert [text for text in INSTEAD if not any(text in block for *_, block in BLOCKS)] == [], "replaced, not printed"
    assert [words for words in SMALLER if not any(words in each for each in printed)] == [], "made smaller, not printed"
    assert sum(text.count("```") for text in map(Path.read_text, FILES)) % 2 == 0


@pytest.mark.usefixtures("own_exits")
@pytest.mark.parametrize("auto", ["float32", "bfloat16"])
def test_the_blocks_run_as_printed_in_order(tmp_path: Path, ray_here: RayHere, monkeypatch: Any, auto: str) -> None:
    """On a machine that multiplies bfloat16 itself, as GPUs do, and on one that doesn't."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(model_inspection, "call_in_subprocess", asked_here())
    monkeypatch.chdir(as_cloned(tmp_path))
    monkeypatch.setattr(loading, "multiplies_bfloat16", lambda device: auto == "bfloat16")
    if auto == "float32":  # a report loads no model, and one run makes them all
        monkeypatch.setattr(sweep, "write_report", lambda *_: None)
    ray_here.cpus = ray_here.free = 1  # each actor takes the model apart
    names: dict[str, Any] = {}  # that one block of Python leaves for the next
    with judging() as judge:
        for where, language, block in BLOCKS:
            if language == "python":
                exec(compile(replaced(block), where, "exec"), names)
                continue
            for command in commands_in(block):
                if command not in LEFT_OUT:
                    run(where, command, judge.url, monkeypatch)
    assert judge.asked
    controls = set[str]()
    for results in Path("results").iterdir():
        runs = pd.read_parquet(results / "generations", columns=["configuration", "control_of", "status"])
        assert set(runs["status"]) == {"ok"}, results
        assert set(runs["control_of"].dropna()) <= set(runs["configuration"]), f"{results}: controls without partners"
        controls |= {*runs["control_of"].dropna()}
    assert controls


def replaced(text: str) -> str:
    for printed, given in INSTEAD.items():
        text = text.replace(printed, given)
    return text


def run(where: str, command: str, judge_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = command.replace("python jobs/sweep.py", "eexit sweep")  # in the first lines
    program, name, *flags = shlex.split(replaced(command))
    if program == "export":
        monkeypatch.setenv(*name.split("=", 1))
        return
    assert program == "eexit", f"{where} has a command that is not run here: {command}"
    script = import_module(module_of(find_scripts()[name]))
    smaller = [flag for of, flags in SMALLER.items() if of in command for flag in flags]
    done = here(script.main, *(word.replace(JUDGE_URL, judge_url) for word in flags), *smaller)
    most = 1 if name == "choose" else 0  # where nothing is to be recommended, it ends with 1
    assert 0 <= done.returncode <= most, f"{where}: {command}\n{done.stdout}{done.stderr}"


def as_cloned(tmp_path: Path) -> Path:
    """Return a folder as a fresh clone, with its prompts; the default model was fetched before."""
    model = platformdirs.user_cache_path("eexit") / "models" / DEFAULT_MODEL
    if not model.is_relative_to(tmp_path):
        pytest.skip("this system's cache folder can't be chosen")
    model.mkdir(parents=True)
    save_byte_model(model, ends=True, n_layers=N_LAYERS, positions=1024)
    prompts = tmp_path / "clone" / "jobs" / "sweeps" / "prompts"
    prompts.mkdir(parents=True)
    for file in (ROOT / "jobs" / "sweeps" / "prompts").iterdir():
        lines = file.read_text().splitlines(keepends=True)
        (prompts / file.name).write_text("".join(lines[:: max(1, len(lines) // N_PROMPTS)]))
    (tmp_path / "clone" / "mine.csv").write_text(MINE)
    (tmp_path / "clone" / "mine.py").write_text(next(block for *_, block in BLOCKS if "@eexit.rule" in block))
    return tmp_path / "clone"
