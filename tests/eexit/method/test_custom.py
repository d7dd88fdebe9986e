"""Custom rules and modes, from a file: outputs equal those of the naive reference; errors name the line."""

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from axes import EXITABLE
from ran import run_alone
from references import decoder_of, packed_decoder_of
from rows import DECODING, MY_EXITS, PROMPTS, SAMPLED, as_reference, assert_scored_alike, exits_of, generate, grid
from tiny_models import tiny_model
from traces import assert_same, traces_of
from transformers import PreTrainedModel

from eexit.decode.engine import Engine
from eexit.decode.requests import Request, RequestFailure
from eexit.errors import UsageError
from eexit.method import custom
from eexit.method.custom import CustomSource, use_files, use_text
from eexit.method.modes import MODES, refuse_mode
from eexit.method.rules import RULES
from eexit.model.layers import Decoder
from eexit.plan.configuration import EarlyExit, NoExit

SETTINGS = {  # with which they exit here and there, on a Llama
    "sure": 0.6, "ratio": 2.0, "by_chance": 0.3, "still": 0.9, "settled": None, "near": 0.8,
    "fell": 0.2, "still_since": 0.5, "settled_for_good": 0.15,
}  # fmt: skip
CUSTOM_MODES = ("from_scratch", "as_it_was", "keys_as_they_were", "between", "gone")


@pytest.fixture(autouse=True)
def _mine(own_exits: None) -> None:
    use_files([str(MY_EXITS)])


@pytest.mark.parametrize("rule", SETTINGS)
def test_invariants_3_and_8_hold_for_a_custom_rule(llama: PreTrainedModel, rule: str) -> None:
    exits = [EarlyExit(mode, rule, SETTINGS[rule]) for mode in (*CUSTOM_MODES, "unfrozen", "frozen_residual")]
    for decoding in (DECODING, SAMPLED):
        requests = grid([NoExit(), *exits], PROMPTS[:2])
        traces = as_reference(llama, requests, decoding, rows=3)
        assert len(exits_of(traces[1:])) > 1
    assert_scored_alike(packed_decoder_of(llama), requests[::3], traces[::3], decoding)


@pytest.mark.parametrize("architecture", ["gemma3", "mixtral", "gpt2"])
def test_invariant_3_holds_for_custom_modes_on_others(architecture: str) -> None:
    model = tiny_model(architecture)
    modes = [mode for mode in CUSTOM_MODES if architecture != "gpt2" or MODES[mode].fill != "kv"]
    requests = grid([EarlyExit(mode, "still", 0.9) for mode in modes])
    as_reference(model, requests, replace(DECODING, max_new_tokens=8), rows=4)
    if len(modes) < len(CUSTOM_MODES):
        with pytest.raises(UsageError, match="not all its layers make keys and values by modules of their own: use fi"):
            refuse_mode("keys_as_they_were", decoder_of(model))


@pytest.mark.parametrize("mode", [*CUSTOM_MODES, "unfrozen"])
def test_invariants_2_and_7_hold_for_a_custom_rule(llama: PreTrainedModel, mode: str) -> None:
    exits = [EarlyExit(mode, "sure", threshold) for threshold in (0.0, 1.1)]
    assert [exits_of([trace]) for trace in generate(llama, grid(exits, [(3, 4)]))] == [{EXITABLE[0]}, {6}]
    decoding = replace(DECODING, record_full_depth="none")
    alone = run_alone(decoder_of(llama), decoding, Request((3, 4), EarlyExit(mode, "sure", 0.3)))
    assert len(exits_of([alone.trace])) > 1
    if mode != "unfrozen":
        assert alone.counts.layers_T.tolist() == (alone.trace.exit_layer_T[1:] + 1).tolist()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("@eexit.rule()\ndef confidence(layer): ...", "rule confidence: there is one of that name already"),
        ("@eexit.mode\ndef normal(exit, layer): ...", "mode normal: there is one of that name already"),
        ("@eexit.rule(needs=['hidden', 'all'])\ndef a(layer): ...", "needs are of hidden, .*, final, got 'all'"),
        ("@eexit.rule(needs=[])\ndef a(layer): ...", "rule a: needs are of hidden, .*, final, got 'nothing at all'"),
        ("@eexit.rule(needs=['final', 'logits'])\ndef a(layer): ...", "rule a needs final, .*: leave out logits "),
        ("@eexit.rule()\ndef a(layer, parameter): ...", "rule a is a function of layer alone: or give parameter="),
        ("@eexit.mode\ndef a(exit): ...", "mode a is a function of an exit and of a skipped layer"),
        ("@eexit.mode(fill='maps')\ndef a(exit, layer): ...", "mode a: fill is hidden, kv, copy or none"),
        ("@eexit.mode(needs=['head'])\ndef a(exit, layer): ...", "mode a: needs are hidden_in and embedding"),
        ("\n1 / 0", r"mine.py can't be used: ZeroDivisionError: division by zero \(mine.py, line 3: 1 / 0\)$"),
        ("import sys\nsys.exit(0)", r"mine.py can't be used: it calls sys.exit\(0\) \(mine.py, line 3: sys.exit"),
        ("raise GeneratorExit", r"mine.py can't be used: GeneratorExit: GeneratorExit \("),
        ("def f(:", r"mine.py can't be used: SyntaxError: invalid syntax"),
    ],
)
def test_what_can_not_be_a_rule_or_a_state_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        use_text(CustomSource("mine.py", f"import eexit\n{text}\n"))


SHOWN = "return layer.top2_prob[:, 0]"
AT_DEF, AT_LINE = r" \(mine.py, line 2\)$", r" \(mine.py, line 4: (return|raise) .*\)$"
WRONG_RULES = [
    ("", "return layer.logits[:, 0] > 0", "layer 1: it uses logits, .*: give needs=\"logits\"" + AT_LINE),
    ("", "return layer.top2_prob > 0", r"layer 1: gives \(2, 2\), not \(2,\)" + AT_DEF),
    ("", "return None", r"layer 1: gives a NoneType, not a \(2,\) tensor of bool" + AT_DEF),
    ("", SHOWN, "layer 1: gives numbers, not True or False: if they are exit probabilities, give draws=True" + AT_DEF),
    ("", "return 1 / 0", "layer 1: ZeroDivisionError: division by zero" + AT_LINE),
    ("", "raise SystemExit(3)", r"layer 1: it calls sys.exit\(3\)" + AT_LINE),
    ("draws=True", f"{SHOWN} / 0 * 0", "layer 1: gives NaN, 2 times of 2" + AT_DEF),
    ("parameter='score'", "return (layer.top2_prob[:, 0] - 2).sqrt()", "layer 1: gives NaN, 2 times of 2" + AT_DEF),
    ("needs='final', draws=True", "return layer.kl * float('nan')", "all layers: gives NaN, 6 times of 6" + AT_DEF),
    ("needs='final', draws=True", "return layer.kl[:, 0]", r"all layers: gives \(2,\), not \(2, 3\)" + AT_DEF),
]  # fmt: skip


@pytest.mark.parametrize(("options", "text", "says"), WRONG_RULES)
def test_wrong_rules_say_where(llama: PreTrainedModel, options: str, text: str, says: str) -> None:
    use_text(CustomSource("mine.py", f"import eexit\n@eexit.rule({options})\ndef a(layer):\n    {text}\n"))
    requests = grid([EarlyExit("skip", "a", 0.5 if "parameter" in options else None)], [(3, 4), (5, 6)])
    with pytest.raises(UsageError, match=f"^rule a, {says}"):
        generate(llama, requests)


OWN_KEY, OWN_VALUE = "layer.key(layer.kv_input)", "layer.value(layer.kv_input)"


@pytest.mark.parametrize("n_rows", [1, 4])
@pytest.mark.parametrize(
    ("options", "text", "says"),
    [
        ("", "return exit.hidden[:, :1]", r"gives \({n}, 1\), not \({n}, 32\)"),
        ("", "return exit.hidden[0]", r"gives \(32,\), not \({n}, 32\)"),
        ("", "return exit.hidden[:1].repeat(9, 1)", r"gives \(9, 32\), not \({n}, 32\)"),
        ("", "return exit.hidden.double()", "gives torch.float64, not torch.float32"),
        ("", "return exit.hidden > 0", "gives torch.bool, not torch.float32"),
        ("", "return None", r"gives a NoneType, not a \({n}, 32\) tensor"),
        ("", "return exit.hidden / 0", "gives numbers that are not finite, of {n} of {n} tokens"),
        ("", "return exit.nothing", r"AttributeError: .*'nothing' \(mine.py, line 4: r"),
        ("fill='kv'", "return exit.hidden", "gives no pair of keys and values"),
        ("fill='kv'", f"return {OWN_KEY}, {OWN_VALUE}[:, :1]", r"gives values \({n}, 1\), not \({n}, 16\)"),
        ("fill='kv'", f"return {OWN_KEY} / 0, {OWN_VALUE}", "gives keys that are not finite, of {n} of {n} tokens"),
    ],
)  # fmt: skip
def test_wrong_modes_say_where(llama: PreTrainedModel, n_rows: int, options: str, text: str, says: str) -> None:
    """Check one token too, for which (1, 1) or (32,) would be broadcast."""
    use_text(CustomSource("mine.py", f"import eexit\n@eexit.mode({options})\ndef a(exit, layer):\n    {text}\n"))
    requests = grid([EarlyExit("a", "fixed", 1.0)], [(3, 4), (5, 6), (7, 8), (9, 10)][:n_rows])
    line = "^mode a, layer 2: " + says.replace("{n}", str(n_rows)) + AT_DEF * ("line 4" not in says)
    with pytest.raises(UsageError, match=line):
        generate(llama, requests)


def test_a_row_whose_own_numbers_blow_up_fails_alone_and_not_by_its_mode() -> None:
    model: Any = tiny_model("llama")
    engine = Engine(Decoder(model), DECODING)
    requests = [Request(prompt, EarlyExit("as_it_was", "fixed", 1.0)) for prompt in PROMPTS[1:]]
    traces = traces_of(engine.generate(requests))
    token = int(traces[0].token_id_T[0])
    assert token not in {*PROMPTS[1], *PROMPTS[2], *traces[1].token_id_T.tolist()}
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = torch.nan
    outcomes = dict(engine.generate(requests))
    assert outcomes[0] == RequestFailure("the model's output is not finite at generated token 1")
    assert_same(outcomes[1], traces[1])


def test_a_files_prints_and_time_are_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom, "SECONDS_UNSAID", 0.2)
    text = "import sys, time\nprint('hello', 3)\nprint('there', file=sys.stdout)\n"
    text += "show = lambda: print('later')\ntime.sleep(0.5)\n"
    use_text(source := CustomSource("mine.py", text))
    printed = capsys.readouterr()
    first, running, took = printed.err.splitlines()
    assert (first, running, printed.out) == ("mine.py: hello 3", "mine.py: it is still being run", "there\n")
    assert re.fullmatch(r"mine.py: it took 0\.[5-9] seconds to run", took)
    sys.modules[f"eexit_use_mine_{source.digest[:8]}"].show()
    assert capsys.readouterr().out == "later\n"


def test_a_file_is_read_again_under_its_name_and_others_are_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    for threshold in (0.1, 0.2):
        path.write_text(f"import eexit\n@eexit.rule()\ndef a(layer):\n    return layer.top2_prob[:, 0] > {threshold}\n")
        [source] = use_files([str(path)])
        assert RULES["a"].source == source
        assert str(threshold) in source.text
    with pytest.raises(UsageError, match=r"--use .*/no.py can't be read: .*No such file"):
        use_files([str(tmp_path / "no.py")])
    assert RULES["confidence"].source is None
