"""The end of a training: what was learned is measured on held-out texts, and written as an artefact."""

from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from eexit.model.file_digests import sha256
from eexit.output.whole_files import publish
from eexit.plan.artefacts import WEIGHTS, Card, write_card
from eexit.results.store.manifest import versions
from eexit.training.plan import TrainingPlan
from eexit.training.run.loop import Training
from eexit.training.run.saving import remove_state, save_tensors
from eexit.training.setup import WAYS


def finish(training: Training, plan: TrainingPlan) -> Card:
    """Write the artefact of a training that is done: its files, then its card. Raises `OSError`."""
    trainer, folder, settings = training.trainer, training.folder, training.settings
    trainer.finish()
    tables = trainer.tables(plan.held_out)
    files = _write_files(training)
    card = Card(
        what=settings.what,
        holds=WAYS[settings.what].holds,
        model=dict(plan.model),
        layers=settings.layers,
        readout=settings.readout,
        data=dict(plan.data),
        settings={**settings.as_dict(), **trainer.found_settings()},
        **tables,
        progress=[dict(row) for row in training.reached.progress],
        versions=versions(),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=training.reached.seconds,
        files=files,
    )
    write_card(folder, card)
    remove_state(folder)
    return card


def _write_files(training: Training) -> dict[str, str]:
    """Write everything but the card; returns the SHA-256 of each file, by name."""
    folder, digests = training.folder, {}
    with TemporaryDirectory(dir=folder, prefix=".") as made:
        save_tensors(Path(made, WEIGHTS), training.trainer.weights())
        training.trainer.save_further(Path(made))
        for file in sorted(path for path in Path(made).iterdir() if path.is_file()):
            digests[file.name] = sha256([file])
            publish(file, folder / file.name)
    return digests
