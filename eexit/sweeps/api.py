"""Sweeps in a notebook: `eexit.sweep` runs one in this process, and `eexit.open` opens the results of any.

sweep = eexit.sweep(["Explain recursion.", {"prompt": "3 + 4?", "answer": "7"}], rules={"confidence": [0.7, 0.9]})
sweep.runs      # a DataFrame, a row per run; sweep.tokens has a row per token
"""

import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, overload

from eexit.errors import Interrupted, UsageError
from eexit.output.display import open_display
from eexit.output.locations import folders_by_name, path_from, redact
from eexit.plan.prompts import prompts_of
from eexit.results.layout import REPORT, side_folder_name
from eexit.results.parquet_files import DamagedError
from eexit.sweeps.arguments import SweepSpec, arguments_named, from_python, signature_of
from eexit.sweeps.sweep_results import SweepResults

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from eexit.sweeps.local import Loaded

    ModelArgument: TypeAlias = str | Path | PreTrainedModel

# Arguments about loading a model, which have no effect on a loaded one.
OF_LOADING: Final = ("revision", "trust_remote_code", "dtype", "quantize", "device")


@overload
def sweep(
    prompts: Any, *, model: "ModelArgument" = ..., tokenizer: Any = ..., out: str | Path | None = ...,
    quiet: bool = ..., **arguments: Any,
) -> SweepResults: ...  # fmt: skip


@overload
def sweep(
    prompts: Any, *, model: "Sequence[ModelArgument]", tokenizer: Any = ..., out: str | Path | None = ...,
    quiet: bool = ..., **arguments: Any,
) -> list[SweepResults]: ...  # fmt: skip


def sweep(
    prompts: Any,
    *,
    model: "ModelArgument | Sequence[ModelArgument]" = "smollm2-135m",
    tokenizer: Any = None,
    out: str | Path | None = None,
    quiet: bool = False,
    **arguments: Any,
) -> SweepResults | list[SweepResults]:
    """Run prompts under each configuration and seed in this process, or resume such a sweep; return the results.

    The size of the work is printed before it starts. At a prompt or in a notebook, Ctrl-C returns the committed
    results, and the same call with their `out` resumes. Raise `ValueError` with a line that names an invalid argument,
    or `SweepStopped` when continuing would only fail. Committed runs stay in `out`.

    Args:
        prompts: a list of texts or dicts, a DataFrame, or the path of a file of prompts. Dicts and columns have the
            fields of such a file: `prompt`, and others such as `answer`.
        model: a name, a folder, a GGUF file or, with its `tokenizer`, a loaded model, which stays unchanged. A list of
            such models gives a list of results, one per model, each in a folder of `out` with the model's name.
        tokenizer: the loaded model's; of several models, a list with None for those that are named.
        out: a folder or URI; the command can resume the sweep there too, and committed runs are not repeated. By
            default a temporary folder, removed with the returned object, except for a report in it.
        quiet: show no progress.
        arguments: the flags of `eexit sweep`, by the same names: `rules={"confidence": [0.7, 0.9]}`, `modes`,
            `exit_layers`, `max_new_tokens`, `seeds`, `dtype`, `device` and so on.
    """
    with arguments_named(SweepSpec):
        if not isinstance(model, list | tuple):
            return _sweep_one(*_plan_sweep(prompts, model, tokenizer, out, arguments), quiet)
        tokenizers = [None] * len(model) if tokenizer is None else tokenizer
        if not isinstance(tokenizers, list | tuple) or len(tokenizers) != len(model):
            raise UsageError(f"tokenizer must be a list of {len(model)}, one for each model, with None for named ones")
        outs, prompts = _folders_of(model, out), prompts_of(prompts)
        return _sweep_each(
            [_plan_sweep(prompts, *each, arguments) for each in zip(model, tokenizers, outs, strict=True)], quiet
        )  # all models are refused or accepted before the first one runs


def _plan_sweep(
    prompts: Any, model: Any, tokenizer: Any, out: str | Path | None, arguments: Mapping[str, Any]
) -> "tuple[SweepSpec, Loaded | None, bool]":
    """Return the sweep that a call describes, its loaded model if any, and True if its folder was named."""
    loaded = _loaded(model, tokenizer, arguments)
    of_model = {"model": model} if loaded is None else _fields_of(loaded)
    given = {**arguments, **of_model, **({} if out is None else {"out": out})}
    return from_python(SweepSpec, prompts, given, "eexit.sweep"), loaded, out is not None


def _folders_of(models: Sequence[Any], out: str | Path | None) -> list[str | None]:
    """Return each model's folder in `out`. Raise `UsageError` if there are no models, or two have one name."""
    if not models:
        raise UsageError("model is an empty list: give at least one model")
    if out is None:
        return [None] * len(models)
    names = [
        str(model) if isinstance(model, str | Path) else getattr(getattr(model, "config", None), "name_or_path", "")
        for model in models
    ]
    return [*folders_by_name(names, str(out))]


def _sweep_each(planned: "Sequence[tuple[SweepSpec, Loaded | None, bool]]", quiet: bool) -> list[SweepResults]:
    """Run the sweeps one by one, and return the results; after Ctrl-C, those of the models so far."""
    found: list[SweepResults] = []
    for number, each in enumerate(planned, 1):
        open_display(quiet).say(f"model {number} of {len(planned)}: {each[0].config.model}")
        try:
            found.append(_sweep_one(*each, quiet))
        except Interrupted as interrupted:
            if not found:
                raise
            print(interrupted, file=sys.stderr)
            break
        if found[-1].progress():
            break
    return found


def _sweep_one(asked: SweepSpec, loaded: "Loaded | None", is_kept: bool, quiet: bool) -> SweepResults:
    if is_kept:
        return _swept(asked, loaded, quiet)
    folder = tempfile.mkdtemp(prefix="eexit-")
    try:
        done = _swept(asked.model_copy(update={"out": folder}), loaded, quiet)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(done, _remove_results, folder)
    return done


def open(results: str | Path) -> SweepResults:
    """Return the results of a sweep in a folder or URI, whoever made them. Raise `ValueError` if there are none.

    Print a line about an unfinished sweep.
    """
    is_uri = isinstance(results, str) and "://" in results
    opened = SweepResults(str(results if is_uri else path_from(results, "results")))
    with suppress(DamagedError):  # which reading the results raises
        if committed := opened.progress():
            print(f"{redact(opened.out)} is unfinished: it has {committed}", file=sys.stderr)
    return opened


def _swept(asked: SweepSpec, loaded: "Loaded | None", quiet: bool) -> SweepResults:
    display, out = open_display(quiet), asked.out if "://" in asked.out else os.path.abspath(asked.out)
    try:
        from eexit.sweeps.local import sweep_here  # imported here and below, since reading results needs no torch

        summary = sweep_here(asked, out, display, loaded)
    except KeyboardInterrupt:
        if not hasattr(sys, "ps1"):  # a script ends; at a prompt or in a notebook, the user continues
            raise
        return _interrupted(out)
    if summary.errors:
        display.say(f"{summary.of_errors}; column error of the runs has all")
    return SweepResults(summary.out)


def _interrupted(out: str) -> SweepResults:
    """Return an interrupted sweep's committed results, and print how to resume it. Raise `Interrupted` without any."""
    try:
        results = SweepResults(out)
    except UsageError:
        raise Interrupted("interrupted: no run is committed") from None
    committed = results.progress() or "all runs"
    print(f"interrupted: {committed} committed; the same call with out={redact(out)!r} resumes", file=sys.stderr)
    return results


def _remove_results(folder: str) -> None:
    """Remove a temporary sweep, except for its report, whose path the caller has."""
    for path in Path(folder).iterdir():
        if path.is_dir() and path.name != side_folder_name(REPORT):
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file() and path.name != REPORT:
            path.unlink(missing_ok=True)
    with suppress(OSError):  # the folder contains a report
        os.rmdir(folder)


def _loaded(model: Any, tokenizer: Any, arguments: Mapping[str, Any]) -> "Loaded | None":
    """Return the loaded model with its tokenizer; None if `model` is a name. Raise `UsageError`."""
    if isinstance(model, str | Path):
        if tokenizer is not None:
            raise UsageError("tokenizer has no effect: a model that is named brings its own, so leave it out")
        return None
    from torch import nn
    from transformers import PreTrainedModel

    from eexit.model.support import naming, refuse_compiled, refuse_unmerged

    if isinstance(model, nn.Module):  # first, since a wrapped model may not be a PreTrainedModel
        with naming(type(model).__name__):
            refuse_compiled(model)  # since a copy would not be compiled
            refuse_unmerged(model)
    if not isinstance(model, PreTrainedModel):
        raise UsageError(f"model must be a name, a path or a model of transformers, got {str(model)[:40]!r}")
    if tokenizer is None:
        raise UsageError("tokenizer is missing: give the one of the loaded model")
    if named := [name for name in OF_LOADING if name in arguments]:
        raise UsageError(f"{named[0]} has no effect on a model that is loaded: leave it out, or give the model's name")
    return model, tokenizer


def _fields_of(loaded: "Loaded") -> dict[str, Any]:
    from eexit.model.quantization import dtype_name
    from eexit.plan.model_description import name_of

    return {"model": name_of(loaded[0]), "dtype": dtype_name(loaded[0].dtype)}


sweep.__signature__ = signature_of(SweepSpec, tokenizer=None, out=None, quiet=False)  # type: ignore[attr-defined]
