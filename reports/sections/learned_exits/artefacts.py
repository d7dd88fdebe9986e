"""What an artefact of learned exits is, in words: what was trained, on which data, with which settings, and when."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from eexit.output.text import counted
from eexit.plan.artefacts import READOUT
from reports.sections.learned_exits.cards import Artefact, artefacts, short

_ELSEWHERE: Final = ("what", "layers", "readout")  # settings that have a line of their own


def trained(about: Mapping[str, Any], role: str) -> str:
    """What a sweep used in a role: a name or, of something trained, what it is with its folder and digest."""
    given = str(about.get("config", {}).get(role) or "")
    for artefact in artefacts(about):
        if role in artefact.roles:
            details = ", ".join(filter(None, [given, short(artefact.digest)]))
            return f"{_what(artefact)} ({details})"
    return given


def summary(artefact: Artefact) -> str:
    """One line that opens to `artefact_facts`."""
    what, roles = _what(artefact), " and ".join(artefact.roles)
    data = _training_data(artefact)
    parts = [
        what if what == roles else f"{what}, used as {roles}",
        f"trained on {data}" if data else "",
        f"digest {short(artefact.digest)}" if artefact.digest else "",
    ]
    return " · ".join(filter(None, parts))


def artefact_facts(artefact: Artefact) -> list[tuple[str, str]]:
    """Labels and texts of what is known."""
    card, model = artefact.card, artefact.card.get("model") or {}
    data = [_training_data(artefact), f"from {artefact.data['sweep']}" if artefact.data.get("sweep") else ""]
    settings = {name: value for name, value in (card.get("settings") or {}).items() if name not in _ELSEWHERE}
    found = [
        ("What", _what(artefact)),
        ("Used as", " and ".join(artefact.roles)),
        ("Trained on", " ".join(filter(None, data))),
        ("Held out", basis(artefact)),
        ("Model", " ".join(str(model[name]) for name in ("name", "revision", "dtype") if model.get(name))),
        ("Layers", ", ".join(map(str, card.get("layers") or []))),
        (
            "Compared with" if READOUT in artefact.roles else "Read through",
            artefact.readout_name(card.get("readout")) or "",
        ),
        ("Settings", ", ".join(f"{name} {_written(value)}" for name, value in settings.items() if value is not None)),
        ("Training", _progress(card.get("progress") or [], card.get("seconds"))),
        ("Made", str(card.get("made") or "").replace("T", " ").replace("+00:00", " UTC")),
        ("Versions", written_versions(card.get("versions") or {})),
        ("Digest", short(artefact.digest)),
    ]
    return [(label, text) for label, text in found if text]


def written_versions(versions: Mapping[str, str | None]) -> str:
    """Packages and their versions; those without one, such as code that was run from a clone, are left out."""
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def basis(artefact: Artefact) -> str:
    """The held-out tokens and prompts that all numbers of the card are over; empty if the card doesn't say."""
    return _counted(artefact, "n_held_out_tokens", "n_held_out_prompts", "held-out token")


def _what(artefact: Artefact) -> str:
    return str(artefact.card.get("what") or artefact.name)


def _training_data(artefact: Artefact) -> str:
    return _counted(artefact, "n_tokens", "n_prompts", "token")


def _counted(artefact: Artefact, tokens: str, prompts: str, noun: str) -> str:
    counts = [(artefact.data.get(tokens), noun), (artefact.data.get(prompts), "prompt")]
    return " of ".join(counted(int(n), name) for n, name in counts if n)


def _written(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(_written, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _progress(progress: Sequence[Mapping[str, Any]], seconds: float | None) -> str:
    """How long the training took, and its losses at the start and at the end."""
    took = f"{seconds / 60:.3g} min" if seconds and seconds >= 60 else f"{seconds:.3g} s" if seconds else ""
    losses = [_ends(progress, name, words) for name, words in (("loss", "loss"), ("held_out_loss", "held-out loss"))]
    return "; ".join(filter(None, [took, *losses]))


def _ends(progress: Sequence[Mapping[str, Any]], name: str, words: str) -> str:
    known = [row[name] for row in progress if row.get(name) is not None]
    if not known:
        return ""
    return f"{words} {known[0]:.3g} nats" + (f" at first, {known[-1]:.3g} at the end" if len(known) > 1 else "")
