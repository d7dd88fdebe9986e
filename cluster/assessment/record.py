"""The folder of an assessment: its mark, and what may not be there."""

from pathlib import Path

from cluster.sweep_job import location_for_all
from eexit.errors import UsageError
from eexit.output.atomic_files import write_atomic
from eexit.output.locations import redact
from eexit.results.layout import ASSESSMENT
from eexit.results.owned_folders import refuse_inside
from eexit.results.parquet_files import StoreLocation
from eexit.results.store.folder import open_store
from eexit.studies.assessment.verdict import FILE, read_verdict


def mark(folder: Path) -> None:
    """Write `assessment.json`, by which the asks of a step are counted with those of steps of other assessments."""
    if not (folder / ASSESSMENT).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / ASSESSMENT, "{}\n")


def folder_of(out: str) -> Path:
    """The folder of an assessment, absolute. Raises `UsageError` for what can't be one."""
    if not out:
        raise UsageError("--out is empty: give a folder")
    if "://" in out:
        raise UsageError(f"--out {redact(out)} is a URI: give a folder, which models are loaded from")
    folder = Path(location_for_all(str(Path(out).expanduser())))
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {out} is a file: give a folder")
    refuse_inside(open_store(folder), f"--out {out}")
    return folder


def refuse_foreign_verdict(*folders: Path) -> None:
    """Raises `UsageError` where a `verdict.json` is not of an assessment, which ours would replace."""
    for folder in folders:
        if (folder / FILE).exists():
            store = open_store(folder)
            found, _ = read_verdict(StoreLocation(store.filesystem, store.root))
            if found is None:
                raise UsageError(
                    f"{folder / FILE} is not of an assessment of this version: move it, or choose another --out"
                )
