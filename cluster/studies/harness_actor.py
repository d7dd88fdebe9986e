"""The actor that evaluates: one loaded model, and the landing of what the lm-evaluation-harness says of it.

It is a plain class, which `cluster.studies.harness` turns into Ray actors.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from cluster.actor import device_here, model_generator
from cluster.console.harness_job import Evaluation, HarnessPlan, need_harness
from eexit.messages.errors import first_line
from eexit.results.layout import HARNESS_FOLDER
from eexit.results.store.folder import open_store
from eexit.results.store.manifest import versions
from eexit.results.study_tables import SCORES

if TYPE_CHECKING:
    from eexit.studies.harness.model import EarlyExitLM


@dataclass(frozen=True)
class Answer:
    """How many tokens were decided for what has landed, or why the evaluation failed."""

    n_tokens: int
    error: str = ""


class HarnessActor:
    """Holds one model. `evaluate` is called with one evaluation at a time; another thread answers `progress`."""

    def __init__(self, out: str) -> None:
        os.environ["TQDM_DISABLE"] = "1"  # its bars would be lines of a log
        self._store = open_store(out)
        self._lm: EarlyExitLM | None = None

    def load(self, plan: HarnessPlan, device: str) -> None:
        """Load the model, and the list of tasks. Raises `UsageError` if that can't be done."""
        need_harness()
        from eexit.studies.harness.tasks import hush, task_manager

        hush()
        self._plan = plan
        self._manager = task_manager([each.task for each in plan.evaluations], plan.folders)
        self._generator: Any = model_generator(plan.config, device_here(device))

    def evaluate(self, evaluation: Evaluation) -> Answer:
        """Evaluate, and land the harness's files and then the scores. Raises `OSError` if they can't be written."""
        from eexit.studies.harness.model import EarlyExitLM
        from eexit.studies.harness.scores import evaluate

        started, asked, config = datetime.now(UTC), self._plan.asked, self._plan.config
        about = self._about(evaluation)
        lm = self._lm = EarlyExitLM(self._generator, evaluation.configuration, evaluation.seed, asked.first_token_exits)
        try:
            evaluated = evaluate(
                lm,
                evaluation.task,
                self._manager,
                about,
                num_fewshot=asked.num_fewshot,
                limit=asked.limit,
                apply_chat_template=asked.apply_chat_template,
                system_instruction=config.system or None,
            )
        except Exception as error:  # a task, a filter or a metric is code of others, and may raise anything
            return Answer(lm.n_decided, f"{type(error).__name__}: {first_line(error)}")
        finally:
            self._lm = None
        common = {
            "evaluation_id": evaluation.evaluation_id,
            "started": started,
            **evaluation.configuration.columns,
            "readout": config.readout,
            "seed": evaluation.seed,
            "mean_depth": lm.mean_depth,
            "first_token_exits": asked.first_token_exits,
            "limit": asked.limit,
            "chat_template": asked.apply_chat_template,
            "model": config.model,
            "dtype": about["dtype"],
            "versions": about["versions"],
        }
        rows = [{**common, **row} for row in evaluated.rows]
        folder = f"{HARNESS_FOLDER}/{evaluation.configuration.key.replace('/', '__')}"
        for name, content in evaluated.files.items():
            self._store.publish(f"{folder}/{name}", content)
        SCORES.publish(self._store, evaluation.evaluation_id, rows)
        return Answer(lm.n_decided)

    def progress(self) -> tuple[float, int]:
        """The share of the current evaluation that is done, and the tokens that were decided in it."""
        lm = self._lm
        return (lm.done / lm.planned if lm and lm.planned else 0.0), lm.n_decided if lm else 0

    def _about(self, evaluation: Evaluation) -> Mapping[str, Any]:
        config, here = self._plan.config, {**versions(), "lm_eval": version("lm_eval")}
        return {
            "pretrained": config.model,
            "revision": config.revision,
            "dtype": str(self._generator.model.dtype).removeprefix("torch."),
            "configuration": evaluation.configuration.key,
            "seed": evaluation.seed,
            "first_token_exits": self._plan.asked.first_token_exits,
            "exit_layers": list(self._generator.engine.decoding.exitable_layers),
            "readout": config.readout,
            "probe": config.probe,
            "adapter": config.adapter,
            "decide_on": config.decide_on,
            "versions": ", ".join(f"{name} {version}" for name, version in here.items() if version),
        }
