"""What a command prints to go on with runs as it stands: no placeholder, and every flag is one of the command."""

import re
import shlex
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence

import pytest
from house import ROOT, modules, strings, tree

from cluster.console.flags_from_config import sweep_parser
from eexit.plan.artefacts import GATE, KV_MAPS, PROBE, READOUT, ArtefactCard, training_advice
from eexit.plan.sweep_config import SweepConfig
from eexit.training.training_table import sweep_command
from jobs import assess, choose, find_scripts, package, replay, timings, train
from jobs.files import student
from jobs.sweep import DEMO

MINE = ROOT / "tests" / "support" / "my_exits.py"
READ: Mapping[str, Callable[[Sequence[str]], Namespace]] = {
    "sweep": lambda arguments: sweep_parser(DEMO).read([*arguments]), "train": train.read_flags,
    "replay": replay.read_flags, "choose": choose.read_flags, "timings": timings.read_flags,
    "package": package.read_flags,
}  # fmt: skip
PLACEHOLDER = re.compile(rf"\beexit ({'|'.join(find_scripts())}) [^.;:]*?(…|\b(RESULTS|FOLDER|FILE|KEY|NAME|MODEL)\b)")


def read(line: str) -> Namespace:
    program, command, *arguments = shlex.split(line)
    assert program == "eexit"
    return READ[command](arguments)


def test_no_printed_command_has_a_placeholder() -> None:
    texts = [(path.name, text) for path in modules().values() for text in strings(tree(path))]
    found = [(name, text) for name, text in texts if PLACEHOLDER.search(text)]
    assert found == []
    assert PLACEHOLDER.search("not measured: eexit timings RESULTS does that")
    assert PLACEHOLDER.search("train it again: eexit train … --out {}")


def card(what: str, role: str, **fields: object) -> ArtefactCard:
    about = {"model": {"name": "my models/one", "revision": "main"}, "layers": (2, 4), "readout": "lens", "files": {}}
    return ArtefactCard.model_validate({"what": what, "holds": (role,), **about, **fields})


CARDS = {
    "readout": card("linear", READOUT, dtype_asked="bfloat16", data={"quantize": "int8"}),
    "probe": card("probe", PROBE),
    "gate": card("gate", GATE, settings={"rules": ["sure/0.9", "sure/0.97", "confidence/0.5"]}),
    "KV maps": card("kv-maps", KV_MAPS),
}


@pytest.mark.usefixtures("own_exits")
@pytest.mark.parametrize("what", CARDS)
def test_the_sweep_with_a_new_artefact_and_the_training_again_are_lines_of_their_commands(what: str) -> None:
    given = ["--what", CARDS[what].what, "--out", "my exits", "--exit-layers", "2", "4", "--use", str(MINE)]
    given += ["--rules", "sure=0.9,0.97", "confidence=0.5"] if what == "gate" else ["--readout", "exits/linear"]
    flags = train.read_flags(["results/my texts", *given, "--prompts", "more.jsonl", "--trust-remote-code"])
    of_sweep = read(sweep_command(CARDS[what], flags.out, train.given_to_sweep(flags)))
    assert (of_sweep.model, of_sweep.exit_layers, of_sweep.out) == ("my models/one", ["2", "4"], "my exits-sweep")
    assert (of_sweep.use, of_sweep.trust_remote_code) == ([str(MINE)], "true")
    if what == "readout":
        assert (of_sweep.dtype, of_sweep.quantize) == ("bfloat16", "int8")
    trained = CARDS[what].model_copy(update={"data": {"sweep": flags.results, "flags": train.further_flags(flags)}})
    assert vars(read(training_advice(trained, flags.out).removeprefix("train it again: "))) == vars(flags)


def test_the_lines_of_a_student_and_of_an_assessments_setting_are_lines_of_their_commands() -> None:
    config = SweepConfig(prompts=(student.NONE,)).model_copy(update={"model": "my models/one", "revision": "main"})
    line = read(student.sweep_command(config, "exits/my student/", trusts_code=True))
    assert (line.model, line.revision, line.adapter) == ("my models/one", "main", "exits/my student/")
    assert (line.out, line.trust_remote_code) == ("exits/my student-sweep", "true")
    packaged = read(assess.package_command("my out", trusts_code=True))
    assert (packaged.results, packaged.out) == ("my out/run", "my out/setting")
