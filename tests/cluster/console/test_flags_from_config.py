"""Flags and TOML become one validated job, and invalid input is answered in one line."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import here

from cluster.console.flags_from_config import GROUPS, load_job
from cluster.sweep_job import FIELDS, SweepJob
from eexit.errors import UsageError
from eexit.method.rules import RULES
from eexit.plan.configuration import exiting_modes
from eexit.plan.runs import configurations
from eexit.plan.sweep_config import SweepConfig
from eexit.quality.risks import RISKS
from jobs import judge, report, sweep, timings, train
from jobs.files import chains, make_prompts

DEMO = Path(__file__).parents[3] / "jobs" / "sweeps" / "demo.toml"

Run = Callable[[list[str]], int]


def load(*arguments: str, default: Path = DEMO) -> SweepJob:
    return load_job(arguments, default)[0]


def test_the_demo_is_the_documented_one() -> None:
    job = load()
    assert job.out == "results/demo"
    assert [prompt.id for prompt in job.config.prompts] == ["recursion", "learning", "http"]
    assert job.config.system == "You are a helpful programming tutor."
    assert job.config.rules == {"kl": (0.5, 1.0, 2.0, 4.0)}
    assert job.config.max_new_tokens == 100


def test_flags_win_and_leave_the_rest() -> None:
    job = load("--kl-factors", "0.5", "2,3", "--modes", "normal,unfrozen", "--seeds", "-3", "--temperature", "0.7")
    assert job.config.rules == {"kl": (0.5, 2.0, 3.0)}
    assert job.config.modes == ("normal", "unfrozen")
    assert job.config.seeds == (-3,)
    assert job.config.temperature == 0.7
    assert job.config.system == "You are a helpful programming tutor."


def test_rules_and_their_parameters_are_a_flag_or_a_table(tmp_path: Path) -> None:
    rules = {"kl": (0.5, 1.0, 2.0), "fixed": (10.0, 15.0), "agree": ()}
    config = load("--rules", "kl=0.5,1", "2", "fixed=10,15", "agree").config
    assert config.rules == rules, "they take the place of the demo's KL factors"
    assert load("--rules", "agree", "--kl-factors", "3").config.rules == {"kl": (3.0,), "agree": ()}
    for written in ('["kl=0.5,1,2", "fixed=10,15", "agree"]', "{kl = [0.5, 1, 2], fixed = [10, 15], agree = []}"):
        (tmp_path / "mine.toml").write_text(f'rules = {written}\n[[prompts]]\nprompt = "x"\n')
        config = load("--config", str(tmp_path / "mine.toml")).config
        assert config.rules == rules


def test_drafts_are_a_grid_in_place_of_kl_factors(tmp_path: Path) -> None:
    config = load("--draft", "10,20:2,4", "5:8").config
    assert (config.draft, config.rules) == (("10:2", "10:4", "20:2", "20:4", "5:8"), {})
    assert [each.key for each in configurations(config)] == ["normal", *(f"draft/{text}" for text in config.draft)]
    (tmp_path / "mine.toml").write_text('draft = ["10,20:2"]\nrules = ["agree"]\n[[prompts]]\nprompt = "x"\n')
    assert load("--config", str(tmp_path / "mine.toml")).config.draft == ("10:2", "20:2")


def test_marks_of_thoughts_are_two_texts_whatever_is_in_them() -> None:
    assert load("--thinking", "<a, b>", "</a:b>").config.thinking == ("<a, b>", "</a:b>")
    assert load("--thinking-until", "(?i)answer:").config.thinking_until == "(?i)answer:"


def test_prompts_of_ones_own_take_nothing_from_the_demo(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("one\n")
    job = load("--prompts", str(tmp_path / "mine.txt"))
    assert [prompt.prompt for prompt in job.config.prompts] == ["one"]
    assert (job.config.system, job.config.prefiller, job.out) == ("", "", "results/sweep")
    assert job.config == SweepConfig(prompts=job.config.prompts)
    (tmp_path / "mine.toml").write_text('system = "Be brief."\n[[prompts]]\nprompt = "two"\n')
    job = load("--config", str(tmp_path / "mine.toml"), "--prompts", str(tmp_path / "mine.txt"))
    assert ([prompt.prompt for prompt in job.config.prompts], job.config.system) == (["one"], "Be brief.")


def test_the_help_has_all_flags_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load_job(["--help"], DEMO, sweep.__doc__ or "")
    assert ended.value.code == 0
    said = capsys.readouterr().out
    titles = [line for line in said.splitlines() if re.fullmatch(r"\w[\w ]*:", line)]
    assert titles == [f"{title.title()}:" for title in ("options", *GROUPS)]
    assert "PydanticUndefined" not in said
    assert set(FIELDS) == {name for names in GROUPS.values() for name in names}
    assert all(f"--{name.replace('_', '-')}" in said for name in FIELDS)
    assert all(field.description for name, field in FIELDS.items() if name != "prompts")
    text = " ".join(said.split())
    assert "(default: none; the demo's: You are a helpful programming tutor.)" in text
    assert "(default: results/sweep; the demo's: results/demo)" in text
    assert "maximum number of tokens per run (default: 100)" in text


def test_text_flags_keep_their_spaces() -> None:
    assert load("--prefiller", " Sure, ").config.prefiller == " Sure, "
    assert load("--prefiller", "-1 is").config.prefiller == "-1 is"


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load("--version")
    assert ended.value.code == 0
    assert re.fullmatch(r"eexit (\d+\.\d+\.\d+\S*|from a clone that is not installed)\n", capsys.readouterr().out)


def test_how_a_sweep_is_executed_is_no_part_of_it() -> None:
    job = load("--actors", "2", "--out", "elsewhere")
    assert (job.actors, job.out) == (2, "elsewhere")
    assert job.config == load().config
    assert not isinstance(job, SweepConfig)  # `plan_runs(job)` would make run ids of where results go


def test_a_tilde_is_the_home_folder_in_toml_too(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('out = "~/mine"\n[[prompts]]\nprompt = "x"\n')
    assert load("--config", str(tmp_path / "mine.toml")).out == str(Path.home() / "mine")


def test_prompts_come_from_a_file_beside_the_toml(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("one\ntwo\n")
    (tmp_path / "mine.toml").write_text('prompts = "mine.txt"\n')
    assert [prompt.prompt for prompt in load("--config", str(tmp_path / "mine.toml")).config.prompts] == ["one", "two"]
    assert [prompt.prompt for prompt in load("--prompts", str(tmp_path / "mine.txt")).config.prompts] == ["one", "two"]


BAD_FLAGS = {
    "--modes normal foo": f"unknown mode 'foo': choose from {', '.join(exiting_modes())} (entry 2 of --modes)",
    "--modes frozen": "unknown mode 'frozen': did you mean frozen_residual or frozen_cache? (entry 1 of --modes)",
    "--modes normal skipp": "unknown mode 'skipp': did you mean skip? (entry 2 of --modes)",
    "--modes normal draft": "mode draft needs the layer and the number of drafted tokens: give --draft LAYER:N, as "
    "in 20:4, and leave draft out of --modes (entry 2 of --modes)",
    "--dtype bf16": "unknown dtype 'bf16': did you mean bfloat16? (--dtype)",
    "--kl-factors 0.5 1 -1": "rule kl takes a KL factor ≥ 0, as in kl=0.5, got -1 (--kl-factors)",
    "--kl-factors -.5,1": "rule kl takes a KL factor ≥ 0, as in kl=0.5, got -0.5 (--kl-factors)",
    "--kl-factors -1e3": "rule kl takes a KL factor ≥ 0, as in kl=0.5, got -1000 (--kl-factors)",
    "--kl-factors strong": "kl_factors must be a number, got 'strong' (entry 1 of --kl-factors)",
    "--kl-factors inf": "rule kl takes a KL factor ≥ 0, as in kl=0.5, got inf (--kl-factors)",
    "--kl-factors 0.12345671 0.12345672": "the parameters of rule kl 0.12345671 and 0.12345672 are shown with six "
    "digits, as 0.123457 both (--kl-factors)",
    "--kl-factors 1 1": "1.0 of rule kl is listed more than once (--kl-factors)",
    "--exit-layers 9 5": "exit layers must be strictly increasing, got 9,5 (--exit-layers)",
    "--exit-layers -1": "exit_layers must be ≥ 0, got -1 (entry 1 of --exit-layers)",
    "--exit-every 0": "exit_every must be ≥ 1, got 0 (--exit-every)",
    "--max-new-tokens 1.5": "max_new_tokens must be a whole number, got '1.5' (--max-new-tokens)",
    "--dtype int8": "unknown dtype 'int8': choose from auto, bfloat16, float16, float32 (--dtype)",
    "--rules foo=1": f"unknown rule 'foo': choose from {', '.join(RULES)} (--rules)",
    "--rules 0.5": "rules start with a name, as in kl=0.5,1 or agree, got 0.5 (--rules)",
    "--rules kl=-1": "rule kl takes a KL factor ≥ 0, as in kl=0.5, got -1 (--rules)",
    "--settings-from-replay results/a": "--settings-from-replay RESULTS and --within RISK=SHARE are given together",
    "--within answers=0.02": "--settings-from-replay RESULTS and --within RISK=SHARE are given together",
    "--settings-from-replay results/a --within answers=2": "--within is a risk and a share, as in answers=0.02, "
    f"got answers=2: risks are {', '.join(RISKS)}",
    "--settings-from-replay results/a --within answers=0.02 --kl-factors 1": "--settings-from-replay selects "
    "the rules, and --kl-factors too: give one of them",
    "--only unfrozen/kl/3": "--only unfrozen/kl/3 is no configuration of this sweep: did you mean "
    "unfrozen/kl/4 or unfrozen/kl/2?",
    "--rules confidense=0.9": "unknown rule 'confidense': did you mean confidence? (--rules)",
    "--rules Entropy": "unknown rule 'Entropy': did you mean entropy? (--rules)",
    "--rules confidence=2": "rule confidence takes a threshold above 0 and up to 1, as in confidence=0.9, got 2 "
    "(--rules)",
    "--rules margin=x": "the parameter of rule margin must be a number, got 'x' (--rules)",
    "--rules kl=1,1": "1.0 of rule kl is listed more than once (--rules)",
    "--rules kl=1 agree kl=2": "rule kl is listed more than once: give all its parameters in one entry (--rules)",
    "--draft 20": "a draft is LAYER:N, as in 20:4 or 10,20:2,4, got '20' (--draft)",
    "--draft 20:0": "N of a draft must be 1 or more, got 20:0 (--draft)",
    "--draft 2:999999999999": "LAYER and N of a draft must be from 0 to 2147483647, got 2:999999999999 (--draft)",
    "--draft 2:101": "draft 2:101 is of more tokens than a run has at most (max_new_tokens 100): draft fewer",
    "--draft 2:4 --temperature 0.7": "draft 2:4 is greedy, and temperature is 0.7: set it to 0",
    "--draft 2:4,6 --max-new-tokens 5": "draft 2:6 is of more tokens than a run has at most (max_new_tokens 5): "
    "draft fewer",
    "--draft 20:4 10,20:4": "20:4 is listed more than once (--draft)",
    "--rules fixed": "rule fixed takes a whole number ≥ 0 (exit layer), as in fixed=10, got none (--rules)",
    "--rules random": "rule random follows a configuration of a finished sweep: give --controls-of RESULTS (--rules)",
    "--rules kl=1 --kl-factors 2": "rule kl has KL factors in rules and in kl_factors: give all of them in one place",
    "--control-modes unfrozen": "--control-modes unfrozen has no effect: give --controls-of RESULTS",
    "--controls-of x --control-modes normal": "--control-modes normal is no mode that exits: give some of "
    "unfrozen, frozen_residual, mapped_residual, frozen_cache, skip",
    "--controls-of nowhere": "--controls-of nowhere holds no sweep.json: give the folder of a finished sweep",
    "--top-p 2": "top_p must be ≤ 1, got 2 (--top-p)",
    "--top-p 0.5": "top_p 0.5 has no effect at temperature 0: set a temperature above 0",
    "--temperature inf": "temperature must be a finite number, got 'inf' (--temperature)",
    f"--seeds {2**63}": f"seeds must be ≤ {2**63 - 1}, got {2**63} (entry 1 of --seeds)",
    f"--seeds 0 {-(2**63) - 1}": f"seeds must be ≥ {-(2**63)}, got {-(2**63) - 1} (entry 2 of --seeds)",
    f"--max-new-tokens {2**31}": f"max_new_tokens must be ≤ {2**31 - 1}, got {2**31} (--max-new-tokens)",
    "--system caf\udce9": "system must be valid Unicode, got 'caf\\udce9' (--system)",
    "--model caf\udce9": "model must be valid Unicode, got 'caf\\udce9' (--model)",
    "--seeds ,": "seeds needs at least one entry (--seeds)",
    "--out ''": "out must be given, got '' (--out)",
    "--out s3:/key:secret@bucket/x": "out s3:/… is neither a path nor a URI: write s3://… (--out)",
    "--actors 0": "actors must be ≥ 1, got 0 (--actors)",
    "--cpus-per-actor 0": "cpus_per_actor must be ≥ 0.01, got 0 (--cpus-per-actor)",
    "--gpus-per-actor inf": "gpus_per_actor must be a finite number, got 'inf' (--gpus-per-actor)",
    "--gpus-per-actor 1.5": "gpus_per_actor must be a whole number or a fraction from 0.01 to 1, got 1.5 "
    "(--gpus-per-actor)",
    "--top-p 2 --actors 0": "top_p must be ≤ 1, got 2 (--top-p); and 1 more to mend",
    "--kl-factor 1": "unrecognized arguments: --kl-factor 1 (did you mean --kl-factors?): --help lists the flags",
    "--model=x --sed=1": "unrecognized arguments: --sed=1 (did you mean --seeds?): --help lists the flags",
    "--rows": "unrecognized arguments: --rows (did you mean --rows-per-shard?): --help lists the flags",
    "--zzz": "unrecognized arguments: --zzz: --help lists the flags",
    "--sistem 'one\n\ntwo'": "unrecognized arguments: --sistem one two (did you mean --system?): "
    "--help lists the flags",
    "mine.txt": "unrecognized arguments: mine.txt: --help lists the flags",
    "--seeds": "argument --seeds: expected at least one argument: --help lists the flags",
    "--config no.toml": "--config no.toml can't be read (No such file or directory): check the name",
    "--config https://x/y.toml": "--config https://x/y.toml is a URL: give a local file",
    "--prompts 'https://user:secret@x/y.txt?key=secret'": "https://…@x/y.txt?…: prompts are read from a local file: "
    "download it first",
    "--prompts no.txt": "no.txt: can't be read (No such file or directory): check the name and the permissions",
}


@pytest.mark.parametrize("flags", BAD_FLAGS)
def test_a_bad_flag_is_told_in_one_line(flags: str) -> None:
    with pytest.raises(UsageError) as raised:
        load(*shlex.split(flags))
    assert str(raised.value) == BAD_FLAGS[flags]


def test_of_a_list_that_is_given_in_parts_nothing_is_lost() -> None:
    config = load("--rules", "patience=2", "--rules", "margin=0.5", "--seeds", "0", "--seeds", "1,2").config
    assert config.rules == {"patience": (2,), "margin": (0.5,)}
    assert config.seeds == (0, 1, 2)


def test_a_toml_may_have_a_byte_order_mark_and_numbers_as_ids(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b'\xef\xbb\xbf[[prompts]]\nid = 3\nprompt = "x"\nanswer = 4\n[[prompts]]\nprompt = "y"\n')
    assert [prompt.answer for prompt in load("--config", str(path)).config.prompts] == ["4", None]
    assert [prompt.id for prompt in load("--config", str(path)).config.prompts] == ["3", "1"]


BAD_TOML = {
    "kl_factor = [1]": "unknown key 'kl_factor' in {path}: did you mean kl_factors?",
    "zzz = 1": "unknown key 'zzz' in {path}: remove it",
    "actor = 1": "unknown key 'actor' in {path}: did you mean actors?",
    "config = 1": "unknown key 'config' in {path}: remove it",
    "[config]\nmodel = 'x'": "unknown key 'config' in {path}: remove it",
    "kl_factors = 1": "kl_factors must be a list, got 1 (kl_factors in {path})",
    "kl_factors = [1, -2]": "rule kl takes a KL factor ≥ 0, as in kl=0.5, got -2 (kl_factors in {path})",
    "max_new_tokens = true": "max_new_tokens must be a number, got True (max_new_tokens in {path})",
    "seeds = [0, true]": "seeds must be a number, got True (entry 2 of seeds in {path})",
    "kl_factors = [true]": "kl_factors must be a number, got True (entry 1 of kl_factors in {path})",
    'rules = "agree"': 'rules must be a list as in ["kl=0.5,1", "agree"], or a table, got \'agree\' (rules in {path})',
    "rules = {margin = 0.5}": "the parameter of rule margin must be a list, got 0.5 (rules in {path})",
    "rules = {patience = [1]}": "rule patience takes a whole number ≥ 2 (exitable layers in a row), as in patience=2, "
    "got 1 (rules in {path})",
    "kl_factors = [1]\nrules = ['kl=2']": "rule kl has KL factors in rules and in kl_factors: give all of them in "
    "one place",
    "actors = true": "actors must be a number, got True (actors in {path})",
    'trust_remote_code = "yes"': "trust_remote_code must be true or false, got 'yes' (trust_remote_code in {path})",
    "trust_remote_code = 1": "trust_remote_code must be true or false, got 1 (trust_remote_code in {path})",
    'prompts = ["a"]': "prompts must be a table with a prompt, as in [[prompts]] prompt = \"Why?\", got 'a' "
    "(entry 1 of prompts in {path})",
    "[[prompts]]\nprompt = 'x'\nanswer_pattern = '['": "answer_pattern '[' is no regular expression (unterminated "
    "character set at position 1): mend it "
    "(entry 1 of prompts in {path})",
    "[[prompts]]\nid = true\nprompt = 'x'": "prompts must be text, got True (entry 1 of prompts in {path})",
    "model = 3": "model must be text, got 3 (model in {path})",
    "": "prompts are missing: give --prompts FILE, or [[prompts]] in {path}",
    "prompts = []": "prompts needs at least one entry (prompts in {path})",
    '[[prompts]]\nid = "a"': "prompt is missing (entry 1 of prompts in {path})",
    '[[prompts]]\nid = "a"\nprompt = "x"\n[[prompts]]\nid = "a"\nprompt = "y"': "prompt ids must be unique, 'a' is "
    "there more than once",
    'prompts = "none.txt"': "{folder}/none.txt: can't be read (No such file or directory): check the name and the "
    "permissions",
    "= 3": "--config {path} is not TOML (Invalid statement (at line 1, column 1))",
}


@pytest.mark.parametrize("toml", BAD_TOML)
def test_a_bad_toml_is_told_in_one_line(tmp_path: Path, toml: str) -> None:
    path = tmp_path / "bad.toml"
    prompt = "" if "prompts" in toml or not toml else '\n[[prompts]]\nprompt = "x"\n'
    path.write_text(toml + prompt)
    with pytest.raises(UsageError) as raised:
        load("--config", str(path))
    assert str(raised.value) == BAD_TOML[toml].format(path=path, folder=tmp_path)


JUDGE = ["a", "--base-url", "http://x", "--model", "m"]
WHOLE_NUMBERS: list[tuple[Run, list[str], list[str]]] = [
    (sweep.main, ["--dry-run"],
     ["--actors", "--rows-per-shard", "--exit-every", "--exit-layers", "--max-new-tokens",
      "--record-top-k", "--seeds", "--draft 20:", "--draft"]),
    (timings.main, ["a"], ["--batch 1", "--batch", "--prompts", "--tokens", "--rounds"]),
    (train.main, ["a", "--what", "linear", "--out", "b"], ["--exit-layers"]),
    (make_prompts.main, ["--out", "x.jsonl"], ["--n", "--seed"]),
    (chains.main, ["a", "--configuration", "normal", "--out", "x.jsonl"], ["--budget"]),
    (report.main, ["a"], ["--prompts"]),
    (judge.main, JUDGE, ["--limit", "--concurrency"]),
]  # fmt: skip


@pytest.mark.parametrize("number", ["-99999999999999999999", "9" * 5000])
@pytest.mark.parametrize(
    ("run", "command", "flag"),
    [
        pytest.param(run, command, flag, id=f"{run.__module__.removeprefix('jobs.')} {flag}")
        for run, command, flags in WHOLE_NUMBERS
        for flag in flags
    ],
)
def test_a_number_that_nothing_can_count_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, command: list[str], flag: str, number: str
) -> None:
    monkeypatch.chdir(tmp_path)
    name, *before = flag.split()
    if name == "--draft":
        number = f"{before.pop()}{number}" if before else f"{number}:4"
    done = here(run, *command, name, *before, number)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert name.removeprefix("--").replace("-", "_") in line.replace("-", "_")
    assert " must be " in line or "a draft is LAYER:N" in line
    assert list(tmp_path.iterdir()) == []


def test_of_a_grid_only_some_configurations_are_run() -> None:
    wanted = ["normal", "unfrozen/confidence/0.9"]
    job = load("--modes", "normal", "unfrozen", "--rules", "confidence=0.7,0.9", "--only", *wanted)
    assert [each.key for each in configurations(job.config)] == wanted
