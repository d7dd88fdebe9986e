"""Description of a packaged setting in sentences: its method, its savings, and the scope of its guarantee."""

from collections.abc import Iterator

from eexit.custom_generate.package import Certificate, PromptDistribution, SettingPackage
from eexit.method.custom import PYTHON, CustomSource
from eexit.output.text import format_number, ordinal, percent, pluralize, short_percent, with_weights
from eexit.plan.configuration import Draft, EarlyExit, all_modes
from eexit.quality.certificate import certificate_sentences


def describe_package(package: SettingPackage) -> str:
    """Return a package's description for its README, a line per paragraph."""
    return "\n".join([*_what(package), *_saved(package), *_guarantee(package), *_identity(package)])


def call_to_load(package: SettingPackage, folder: str) -> str:
    """Return the Python call that loads the setting in a folder."""
    files = [name for name in dict.fromkeys(each["source"] for each in package.own) if name.endswith(PYTHON)]
    return f"eexit.load({folder!r}" + (f", use={files!r})" if files else ")")


def _what(package: SettingPackage) -> Iterator[str]:
    model, config = package.model, package.config
    of = f"{model.name} ({model.architecture}, {model.n_layers} layers)"
    match package.setting:
        case Draft(layer, n_tokens):
            yield (
                f"{package.key} of {of}: {n_tokens} tokens are drafted after layer {layer}; full depth keeps those it "
                "agrees with."
            )
            yield (
                "The text is that of plain generate, token for token in float32, up to the model's context: nothing is "
                "lost."
            )
        case EarlyExit() as exit:
            layers = ", ".join(map(str, package.exit_layers))
            after = "layer" if len(package.exit_layers) == 1 else "layers"
            yield (
                f"{package.key} of {of}: tokens exit after {after} {layers} where rule {exit.rule} decides so. "
                f"Mode {exit.mode}: {all_modes()[exit.mode]}."
            )
    for own in package.own:
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


def _saved(package: SettingPackage) -> Iterator[str]:
    theoretical, run = package.saved.get("theoretical"), package.saved.get("run")
    yield (
        f"Multiply-adds saved in its sweep, of decided tokens: {percent(theoretical)} if deciding were free "
        f"(theoretical), {percent(run)} by what was run."
    )
    for timed in package.timed:
        ends = "" if timed.low is None else f" [{percent(timed.low)}, {percent(timed.high)}]"
        yield (
            f"Time saved beside full depth at {pluralize(timed.rows, 'sequence')} (realised): "
            f"{percent(timed.saved)}{ends}, {format_number(timed.tokens_per_second, '.1f')} tokens per second, "
            f"{timed.rounds} rounds on {timed.machine}"
            + (f"; {timed.beside_generate:.2f} times as fast as generate." if timed.beside_generate else ".")
        )
    if not package.timed:
        yield "It was not timed: eexit timings measures its saving in time on a machine."


def _guarantee(package: SettingPackage) -> Iterator[str]:
    if package.certificate is None:
        yield "It has no guarantee: no choice (eexit choose) certified it."
    else:
        yield from _certified(package.certificate, package.model.quantization)
        yield ("The guarantee covers only prompts drawn as these were, with texts generated as theirs were.")
    yield _prompts(package.prompts)


def _certified(certificate: Certificate, quantization: str | None) -> Iterator[str]:
    bounded = certificate.risk, certificate.max_risk, certificate.confidence
    said = " ".join(certificate_sentences(*bounded, certificate.model_dump()))
    yield f"Certified{with_weights(quantization)}, by risk {certificate.risk}. {said} The loss: {certificate.loss}."
    if certificate.question > 1:
        yield f"It was the {ordinal(certificate.question)} use of these prompts."
    held_out = certificate.held_out
    if held_out is None:
        yield "It was not checked on test prompts."
    else:
        mean, upper = short_percent(held_out.mean_loss), short_percent(held_out.upper)
        yield (
            f"On {held_out.n} test prompts, its mean loss is {mean}, so that by these alone the risk is "
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


def _identity(package: SettingPackage) -> Iterator[str]:
    for dtype, measured in package.model.measured.items():
        yield (
            f"In {dtype}{with_weights(package.model.quantization)} on {measured.device}, {measured.identical} of "
            f"{measured.runs} texts of the sweep came out the same, token for token, when it was packaged."
            + ("" if dtype == package.model.dtype else f" The sweep, and any guarantee, is of {package.model.dtype}.")
        )
