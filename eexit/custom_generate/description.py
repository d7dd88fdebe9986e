"""Description of a packaged setting in sentences: its method, its savings, and the scope of its guarantee."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from eexit.custom_generate.package import Certificate, PromptDistribution, SettingPackage
from eexit.method.custom import PYTHON, CustomSource
from eexit.output.text import format_number, in_python, ordinal, percent, short_percent, with_weights
from eexit.plan.configuration import Draft, EarlyExit, all_modes
from eexit.quality.certificate import certificate_sentences


def describe_package(taken: SettingPackage) -> str:
    """Return the description, a line per paragraph."""
    lines = [*_what(taken), *_saved(taken), *_guarantee(taken), *_identity(taken)]
    return in_python("\n".join(lines), ["use"])


def call_to_load(taken: SettingPackage, folder: str, use: Sequence[str] = ()) -> str:
    """Return the Python call that loads the setting in a folder; `use` are paths of its custom rules' and modes' files.

    Without paths, the files are named as when they were packaged.
    """
    named = [name for name in dict.fromkeys(each["source"] for each in taken.own) if name.endswith(PYTHON)]
    files = [next((path for path in use if Path(path).name == name), name) for name in named]
    return f"eexit.load({folder!r}" + (f", use={files!r})" if files else ")")


def _what(taken: SettingPackage) -> Iterator[str]:
    model, config = taken.model, taken.config
    of = f"{model.name} ({model.architecture}, {model.n_layers} layers)"
    match taken.setting:
        case Draft(layer, n_tokens):
            yield (
                f"{taken.key} of {of}: {n_tokens} tokens are drafted after layer {layer}; full depth keeps those it "
                "agrees with."
            )
            yield (
                "The text is that of plain generate, token for token in float32, up to the model's context: nothing is "
                "lost."
            )
        case EarlyExit() as exit:
            layers = ", ".join(map(str, taken.exit_layers))
            after = "layer" if len(taken.exit_layers) == 1 else "layers"
            yield (
                f"{taken.key} of {of}: tokens leave after {after} {layers} where rule {exit.rule} says so. "
                f"Mode {exit.mode}: {all_modes()[exit.mode]}."
            )
    for own in taken.own:
        source = CustomSource(own["source"], own["text"])
        yield (
            f"{own['kind'].capitalize()} {own['name']} is not of eexit: {own['definition']}. Its text stands in "
            f"setting.json and is never run from there: {source.way_out}."
        )
    decide = f"by screen {config['screen']}" if config.get("screen") else "by the whole head"
    used = {name: config.get(name) for name in ("readout", "probe", "adapter", "gate", "kv_maps") if config.get(name)}
    yield (
        f"Layers are read with {', '.join(f'{name} {value}' for name, value in used.items())}; rules decide "
        f"{decide}; tokens come from the whole head."
    )


def _saved(taken: SettingPackage) -> Iterator[str]:
    theoretical, run = taken.saved.get("theoretical"), taken.saved.get("run")
    yield (
        f"Multiply-adds saved in its sweep, of decided tokens: {percent(theoretical)} if deciding were free "
        f"(theoretical), {percent(run)} by what was run."
    )
    for timed in taken.timed:
        ends = "" if timed.low is None else f" [{percent(timed.low)}, {percent(timed.high)}]"
        yield (
            f"Time saved beside full depth at {timed.rows} row{'s' * (timed.rows > 1)} (realised): "
            f"{percent(timed.saved)}{ends}, {format_number(timed.tokens_per_second, '.1f')} tokens per second, "
            f"{timed.rounds} rounds on {timed.machine}"
            + (f"; {timed.of_generate:.2f} × generate's time." if timed.of_generate else ".")
        )
    if not taken.timed:
        yield "It was not timed: what it saves in time on a machine is what eexit timings measures there."


def _guarantee(taken: SettingPackage) -> Iterator[str]:
    if taken.certificate is None:
        yield "It has no guarantee: no choice (eexit choose) certified it."
    else:
        yield from _certified(taken.certificate, taken.model.quantization)
        yield (
            "The guarantee is about prompts drawn as those were, and texts made as theirs were: of others it says "
            "nothing."
        )
    yield _prompts(taken.prompts)


def _certified(certificate: Certificate, quantization: str | None) -> Iterator[str]:
    bounded = certificate.risk, certificate.max_risk, certificate.confidence
    said = " ".join(certificate_sentences(*bounded, certificate.model_dump()))
    yield f"Certified{with_weights(quantization)}, by risk {certificate.risk}. {said} The loss: {certificate.loss}."
    if certificate.question > 1:
        yield f"It was the {ordinal(certificate.question)} ask of these prompts."
    held_out = certificate.held_out
    if held_out is None:
        yield "It was not checked on prompts that chose nothing."
    else:
        mean, upper = short_percent(held_out.mean_loss), short_percent(held_out.upper)
        yield (
            f"On {held_out.n} prompts that chose nothing, its mean loss is {mean}, so that by these alone the risk is "
            f"at most {upper}."
        )


def _prompts(drawn: PromptDistribution) -> str:
    kinds = ", ".join(f"{n} {kind}" for kind, n in drawn.kinds.items())
    of = f" ({kinds})" if kinds else ""
    sampled = f"at temperature {drawn.temperature:g}" if drawn.temperature else "greedily"
    system = f", system prompt {drawn.system!r}" if drawn.system else ""
    prefiller = f", answers begun with {drawn.prefiller!r}" if drawn.prefiller else ""
    return (
        f"The sweep had {drawn.n} prompts{of}, such as {drawn.examples[0]!r}{system}{prefiller}; texts of up to "
        f"{drawn.max_new_tokens} tokens, decoded {sampled}."
    )


def _identity(taken: SettingPackage) -> Iterator[str]:
    for dtype, measured in taken.model.measured.items():
        yield (
            f"In {dtype}{with_weights(taken.model.quantization)} on {measured.device}, {measured.identical} of "
            f"{measured.runs} texts of the sweep came out the same, token for token, when it was packaged."
            + ("" if dtype == taken.model.dtype else f" The sweep, and any guarantee, is of {taken.model.dtype}.")
        )
