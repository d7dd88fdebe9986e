"""Custom rules and modes on their way to actors: the text of files, and pickled functions."""

import sys
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from ray import cloudpickle

from eexit.errors import UsageError, first_line
from eexit.method.custom import CustomSource, use_text
from eexit.method.custom_manifest import (
    captured_by,
    custom_entries,
    descriptions_of,
    refuse_changed,
    register_from_manifest,
)
from eexit.method.modes import Mode
from eexit.method.rules import Rule


@dataclass(frozen=True)
class CustomExits:
    """Custom rules and modes to register in another process, whose node may lack their files."""

    files: tuple[CustomSource, ...]
    functions: bytes  # of other rules and modes, pickled by value
    own: list[dict[str, Any]]  # descriptions of all of them
    missing: list[dict[str, Any]]  # descriptions of those that no run is left of, without functions

    @classmethod
    def among(cls, names: Collection[str]) -> "CustomExits":
        """Return the custom rules and modes with these names. Raise `UsageError` if a function can't be pickled."""
        every = custom_entries(names)
        entries, missing = ([each for each in every if each.given == given] for given in (True, False))
        files = {each.source.digest: each.source for each in entries if each.source and each.source.is_file}
        functions = [
            replace(each, captured=captured_by(each)) for each in entries if each.source and not each.source.is_file
        ]
        described = [descriptions_of({each.name for each in some}) for some in (entries, missing)]
        return cls(tuple(files.values()), _pickled(functions), *described)

    def register(self) -> None:
        """Register the rules and modes in this process. Raise `UsageError` if that fails."""
        for source in self.files:
            use_text(source)
        for each in cloudpickle.loads(self.functions):
            each.register()
        register_from_manifest(self.missing)
        refuse_changed(self.own, "the driver")  # two files may have a rule of the same name


def _pickled(entries: list[Rule | Mode]) -> bytes:
    """Return the pickled entries with their modules, which need not exist on the actor's node.

    Raise `UsageError` if an entry can't be pickled.
    """
    with ExitStack() as by_value:
        modules = {sys.modules.get(each.function.__module__) for each in entries} - {sys.modules["__main__"], None}
        for module in modules:
            cloudpickle.register_pickle_by_value(module)
            by_value.callback(cloudpickle.unregister_pickle_by_value, module)
        try:
            found: bytes = cloudpickle.dumps(entries)
        except Exception as error:  # of any module that the functions use
            names = ", ".join(each.name for each in entries)
            raise UsageError(
                f"{names} can't be sent to other processes ({type(error).__name__}: {first_line(error)}): put it into "
                "a file of its own, and give --use with that"
            ) from error
        return found
