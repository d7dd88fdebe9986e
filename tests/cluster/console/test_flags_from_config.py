"""Flags and TOML become one validated job, and invalid input is answered in one line."""

import re
import shlex
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from commands import refusal

from cluster.console.flags_from_config import GROUPS, load_job
from cluster.sweep_job import FIELDS, SweepJob
from eexit.errors import UsageError
from eexit.plan.sweep_config import Prompt, SweepConfig
from jobs import judge, report, sweep, timings, train
from jobs.files import chains, make_prompts

MINE = Path(__file__).parents[2] / "support" / "my_exits.py"


def load(*arguments: str) -> SweepJob:
    return load_job(arguments, sweep.DEMO)[0]


FLAGS: dict[str, dict[str, Any]] = {  # flags → fields of the sweep
    "": {"rules": {"kl": (0.5, 1.0, 2.0, 4.0)}, "max_new_tokens": 100},
    "--kl-factors 0.5 2,3 --modes normal,unfrozen --seeds -3": {
        "rules": {"kl": (0.5, 2.0, 3.0)}, "modes": ("normal", "unfrozen"), "seeds": (-3,),
    },
    "--rules kl=0.5,1 2 fixed=10,15 agree": {"rules": {"kl": (0.5, 1.0, 2.0), "fixed": (10.0, 15.0), "agree": ()}},
    "--rules agree --kl-factors 3": {"rules": {"kl": (3.0,), "agree": ()}},
    "--rules patience=2 --rules margin=0.5 --seeds 0 --seeds 1,2": {
        "rules": {"patience": (2,), "margin": (0.5,)}, "seeds": (0, 1, 2),
    },
    "--draft 10,20:2,4 5:8": {"draft": ("10:2", "10:4", "20:2", "20:4", "5:8"), "rules": {}},
    "--thinking '<a, b>' '</a:b>'": {"thinking": ("<a, b>", "</a:b>")},
    "--thinking-until (?i)answer:": {"thinking_until": "(?i)answer:"},
    "--prefiller ' Sure, '": {"prefiller": " Sure, "},
    "--prefiller '-1 is'": {"prefiller": "-1 is"},
    "--exit-sets 5,10 all --only normal unfrozen/kl/2@5,10": {"only": ("normal", "unfrozen/kl/2@5,10")},
}  # fmt: skip


@pytest.mark.parametrize("flags", FLAGS)
def test_flags_win_over_the_demos_fields_and_leave_the_rest(flags: str) -> None:
    demo, job = load(), load(*shlex.split(flags))
    fields = {"prompts": demo.config.prompts, "system": "You are a helpful programming tutor.", **FLAGS[flags]}
    assert {name: getattr(job.config, name) for name in fields} == fields
    assert [prompt.id for prompt in demo.config.prompts] == ["recursion", "learning", "http"]
    assert (job.config == demo.config) == (flags == "")


TABLES: dict[str, dict[str, Any]] = {
    'rules = ["kl=0.5,1,2", "fixed=10,15", "agree"]': {"rules": {"kl": (0.5, 1, 2), "fixed": (10, 15), "agree": ()}},
    "rules = {kl = [0.5, 1, 2], agree = []}": {"rules": {"kl": (0.5, 1, 2), "agree": ()}},
    'draft = ["10,20:2"]\nrules = ["agree"]': {"draft": ("10:2", "20:2"), "rules": {"agree": ()}},
    "\ufeffexit_every = 2": {"exit_every": 2},
}


@pytest.mark.parametrize("toml", TABLES)
def test_a_toml_has_the_names_of_the_flags(tmp_path: Path, toml: str) -> None:
    path = tmp_path / "mine.toml"
    prompts = '[[prompts]]\nid = 3\nprompt = "x"\nanswer = 4\n[[prompts]]\nprompt = "y"\n'
    path.write_text(f'{toml}\nout = "~/mine"\n{prompts}', "utf-8")
    job = load("--config", str(path))
    assert {name: getattr(job.config, name) for name in TABLES[toml]} == TABLES[toml]
    assert job.out == str(Path.home() / "mine")
    assert [(prompt.id, prompt.answer) for prompt in job.config.prompts] == [("3", "4"), ("1", None)]


def test_prompts_of_ones_own_take_nothing_from_the_demo_and_may_be_beside_the_toml(tmp_path: Path) -> None:
    mine, toml = tmp_path / "mine.txt", tmp_path / "mine.toml"
    mine.write_text("one\n")
    job = load("--prompts", str(mine))
    assert job.config == SweepConfig(prompts=(Prompt("0", "one"),))
    assert (job.out, load().out) == ("results/sweep", "results/demo")
    executed = load("--actors", "2", "--out", "elsewhere")
    assert (executed.actors, executed.out, executed.config) == (2, "elsewhere", load().config)
    toml.write_text('prompts = "mine.txt"\n')
    assert load("--config", str(toml)).config == job.config
    toml.write_text('system = "Be brief."\n[[prompts]]\nprompt = "two"\n')
    both = load("--config", str(toml), "--prompts", str(mine)).config
    assert (both.prompts, both.system) == (job.config.prompts, "Be brief.")


def test_the_help_has_all_flags_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    def said(flag: str) -> str:
        with pytest.raises(SystemExit) as ended:
            load_job([flag], sweep.DEMO, sweep.__doc__ or "")
        assert ended.value.code == 0
        return capsys.readouterr().out

    assert re.fullmatch(r"eexit (\d+\.\d+\.\d+\S*|from a clone that is not installed)\n", said("--version"))
    help_text = said("--help")
    titles = [line for line in help_text.splitlines() if re.fullmatch(r"\w[\w ]*:", line)]
    assert titles == [f"{title.title()}:" for title in ("options", *GROUPS)]
    assert set(FIELDS) == {name for names in GROUPS.values() for name in names}
    assert all(f"--{name.replace('_', '-')}" in help_text for name in FIELDS)
    assert all(field.description for name, field in FIELDS.items() if name != "prompts")
    text = " ".join(help_text.split())
    assert "PydanticUndefined" not in text
    assert "(default: none; the demo's: You are a helpful programming tutor.)" in text
    assert "(default: 100)" in text


BAD_FLAGS = {
    "--modes normal foo": "unknown mode 'foo': choose from normal, unfrozen, … (entry 2 of --modes)",
    "--modes frozen": "unknown mode 'frozen': did you mean frozen_residual or frozen_cache? (entry 1 of --modes)",
    "--modes normal draft": "mode draft needs … give --draft LAYER:N, … (entry 2 of --modes)",
    "--dtype bf16": "unknown dtype 'bf16': did you mean bfloat16? (--dtype)",
    "--kl-factors -.5,1": "rule kl takes a KL factor ≥ 0, as in kl=0.5, got -0.5 (--kl-factors)",
    "--kl-factors strong": "kl_factors must be a number, got 'strong' (entry 1 of --kl-factors)",
    "--kl-factors 0.12345671 0.12345672": "the parameters of rule kl … as 0.123457 both (--kl-factors)",
    "--max-new-tokens 1.5": "max_new_tokens must be a whole number, got '1.5' (--max-new-tokens)",
    "--rules foo=1": "unknown rule 'foo': choose from kl, … (--rules)",
    "--use mine.txt": "--use mine.txt is no file of Python: give one whose name ends in .py",
    "--use {mine} --rules by_chance=1 --screen 8:16": "rule by_chance reads the logits…",
    "--use {mine} --rules ratio=0.3": "rule ratio takes a ratio … ≥ 1, got 0.3 (--rules)",
    "--rules 0.5": "rules start with a name, as in kl=0.5,1 or agree, got 0.5 (--rules)",
    "--settings-from-replay results/a": "--settings-from-replay RESULTS and --within RISK=SHARE are given together",
    "--settings-from-replay results/a --within answers=2": "--within is … got answers=2: risks are …",
    "--settings-from-replay a --within answers=0.02 --kl-factors 1": "…-replay selects …, and --kl-factors too: …",
    "--only unfrozen/kl/3": "--only unfrozen/kl/3 is no … did you mean unfrozen/kl/4 or unfrozen/kl/2?",
    "--rules margin=x": "the parameter of rule margin must be a number, got 'x' (--rules)",
    "--rules kl=1,1": "1.0 of rule kl is listed more than once (--rules)",
    "--rules kl=1 agree kl=2": "rule kl is listed more than once: give all its parameters in one entry (--rules)",
    "--draft 20": "a draft is LAYER:N, as in 20:4 or 10,20:2,4, got '20' (--draft)",
    "--draft 2:101": "draft 2:101 is of more tokens than a run has at most (max_new_tokens 100): draft fewer",
    "--draft 2:4 --temperature 0.7": "draft 2:4 is greedy, and temperature is 0.7: set it to 0",
    "--draft 20:4 10,20:4": "20:4 is listed more than once (--draft)",
    "--rules random": "rule random follows a configuration of a finished sweep: give --controls-of RESULTS (--rules)",
    "--control-modes unfrozen": "--control-modes unfrozen has no effect: give --controls-of RESULTS",
    "--controls-of x --control-modes normal": "--control-modes normal is no mode that exits: give some of unf…",
    "--controls-of nowhere": "--controls-of nowhere holds no sweep.json: give the folder of a finished sweep",
    "--top-p 0.5": "top_p 0.5 has no effect at temperature 0: set a temperature above 0",
    "--temperature inf": "temperature must be a finite number, got 'inf' (--temperature)",
    "--system caf\udce9": "system must be valid Unicode, got 'caf\\udce9' (--system)",
    "--seeds ,": "seeds needs at least one entry (--seeds)",
    "--out ''": "out must be given, got '' (--out)",
    "--out s3:/key:secret@bucket/x": "out s3:/… is neither a path nor a URI: write s3://… (--out)",
    "--device gpu": "unknown device 'gpu': choose from auto, cpu, cuda, mps (--device)",
    "--cpus-per-actor 0": "cpus_per_actor must be ≥ 0.01, got 0 (--cpus-per-actor)",
    "--gpus-per-actor 1.5": "gpus_per_actor must be a whole number or a fraction …, got 1.5 (--gpus-per-actor)",
    "--top-p 2 --actors 0": "top_p must be ≤ 1, got 2 (--top-p); and 1 more to mend",
    "--model=x --sed=1": "unrecognized arguments: --sed=1 (did you mean --seeds?): --help lists the flags",
    "--sistem 'one\n\ntwo'": "unrecognized arguments: --sistem one two (did you mean --system?): …",
    "--seeds": "argument --seeds: expected at least one argument: --help lists the flags",
    "--config no.toml": "--config no.toml can't be read (No such file or directory): check the name",
    "--config https://x/y.toml": "--config https://x/y.toml is a URL: give a local file",
    "--prompts 'https://user:secret@x/y.txt?key=secret'": "https://…@x/y.txt?…: prompts are read from a local file: …",
}


BAD_TOML = {
    "kl_factor = [1]": "unknown key 'kl_factor' in {path}: did you mean kl_factors?",
    "config = 1": "unknown key 'config' in {path}: remove it",
    "kl_factors = 1": "kl_factors must be a list, got 1 (kl_factors in {path})",
    "seeds = [0, true]": "seeds must be a number, got True (entry 2 of seeds in {path})",
    'rules = "agree"': 'rules must be a list as in ["kl=0.5,1", "agree"], or a table, got \'agree\' (rules in {path})',
    "rules = {margin = 0.5}": "the parameter of rule margin must be a list, got 0.5 (rules in {path})",
    "kl_factors = [1]\nrules = ['kl=2']": "rule kl has KL factors in rules and in kl_factors: …",
    'trust_remote_code = "yes"': "trust_remote_code must be true or false, got 'yes' (trust_remote_code in {path})",
    'prompts = ["a"]': "prompts must be a table …, got 'a' (entry 1 of prompts in {path})",
    "[[prompts]]\nprompt = 'x'\nanswer_pattern = '['": "answer_pattern '[' … (entry 1 of prompts in {path})",
    "[[prompts]]\nid = true\nprompt = 'x'": "prompts must be text, got True (entry 1 of prompts in {path})",
    "model = 3": "model must be text, got 3 (model in {path})",
    "": "prompts are missing: give --prompts FILE, or [[prompts]] in {path}",
    "prompts = []": "prompts needs at least one entry (prompts in {path})",
    '[[prompts]]\nid = "a"': "prompt is missing (entry 1 of prompts in {path})",
    '[[prompts]]\nid = "a"\nprompt = "x"\n[[prompts]]\nid = "a"\nprompt = "y"': "prompt ids must be unique, 'a' …",
    'prompts = "none.txt"': "{folder}/none.txt: can't be read (No such file or directory): …",
    "= 3": "--config {path} is not TOML (Invalid statement (at line 1, column 1))",
}


@pytest.mark.usefixtures("own_exits")
@pytest.mark.parametrize("given", [*BAD_FLAGS, *BAD_TOML])
def test_bad_input_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """… stands for any text."""
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").touch()
    path, arguments = tmp_path / "bad.toml", shlex.split(given.replace("{mine}", str(MINE)))
    if given in BAD_TOML:
        path.write_text(given + ("" if "prompts" in given or not given else '\n[[prompts]]\nprompt = "x"\n'))
        arguments = ["--config", str(path)]
    with pytest.raises(UsageError) as raised:
        load(*arguments)
    told = {**BAD_FLAGS, **BAD_TOML}[given].replace("{path}", str(path)).replace("{folder}", str(tmp_path))
    assert re.fullmatch(".*".join(map(re.escape, told.split("…"))), str(raised.value)), str(raised.value)


WHOLE_NUMBERS: list[tuple[Callable[[list[str]], int], str, list[str]]] = [
    (sweep.main, "--dry-run",
     ["--actors", "--rows-per-shard", "--exit-every", "--exit-layers", "--max-new-tokens",
      "--record-top-k", "--seeds", "--draft 20:{}", "--draft {}:4"]),
    (timings.main, "a", ["--batch 1", "--batch", "--prompts", "--tokens", "--rounds"]),
    (train.main, "a --what linear --out b", ["--exit-layers"]),
    (make_prompts.main, "--out x.jsonl", ["--n", "--seed"]),
    (chains.main, "a --configuration normal --out x.jsonl", ["--budget"]),
    (report.main, "a", ["--prompts"]),
    (judge.main, "a --base-url http://x --model m", ["--limit", "--concurrency"]),
]  # fmt: skip


@pytest.mark.parametrize(("run", "command", "flags"), WHOLE_NUMBERS)
def test_what_nothing_counts_is_refused(tmp_path: Path, monkeypatch: Any, run: Any, command: str, flags: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for flag, number in product(flags, ("-99999999999999999999", "9" * 5000)):
        words = (flag if "{}" in flag else f"{flag} {{}}").format(number).split()
        line = refusal(run, *command.split(), *words)
        assert words[0].removeprefix("--").replace("-", "_") in line.replace("-", "_")
        assert " must be " in line or "a draft is LAYER:N" in line
    assert list(tmp_path.iterdir()) == []
