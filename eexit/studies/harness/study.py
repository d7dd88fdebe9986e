"""Evaluating a grid of configurations on tasks of the lm-evaluation-harness, and the table that ends it."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from eexit.errors import first_line
from eexit.output.result_table import ResultTable
from eexit.output.text import with_versions, written
from eexit.plan.config import SweepConfig
from eexit.plan.configuration import short_name
from eexit.results.layout import HARNESS_FOLDER
from eexit.results.store.folder import open_store
from eexit.results.store.manifest import versions
from eexit.results.study_tables import SCORES
from eexit.studies.harness.plan import Evaluation, TasksAsked, need_harness
from eexit.studies.study import Done, Part, Row, Study, Unit

if TYPE_CHECKING:
    from eexit.studies.harness.model import EarlyExitLM


CAPTION = (
    "Values as the lm-evaluation-harness computes them, ± standard error over documents. Depth: the mean of "
    "(exit layer + 1) / L over the decided tokens, if any; it says which layers the exits need, not what was saved."
)
ARROWS = {True: "↑ ", False: "↓ ", None: ""}  # which way is better, as in the harness's own tables
NUMBERS = {"value": ".4f", "stderr": ".4f", "n": ",.0f", "mean_depth": ".3f"}  # how columns are written


class HarnessStudy(Study):
    """A unit is an evaluation: one task under one configuration and seed. The harness's own files go to `out`."""

    table, needs_model = SCORES, True
    noun, again = "evaluation", "evaluated again"

    def __init__(
        self,
        config: SweepConfig,
        asked: TasksAsked,
        evaluations: Sequence[Evaluation],
        folders: Sequence[str],
        out: str,
    ) -> None:
        """`folders` are those of the user's own tasks."""
        self.config, self.asked, self.evaluations = config, asked, evaluations
        self._folders, self._out = folders, out
        self._lm: EarlyExitLM | None = None  # while it is evaluated

    def load(self, device: str, memory_share: float) -> Sequence[str]:
        """Load the model, and the list of tasks."""
        need_harness()
        from eexit.generator import ModelGenerator
        from eexit.studies.harness.tasks import hush, task_manager

        hush()
        self._manager = task_manager([each.task for each in self.evaluations], self._folders)
        self._generator = ModelGenerator(self.config, device, memory_share)
        return ()

    def units(self) -> Sequence[Unit]:
        return [Unit([Part(each.name, each)], each.evaluation_id, each.name) for each in self.evaluations]

    def do(self, part: Part) -> Done:
        """Evaluate, and publish the harness's files. Raises `OSError` if they can't be written."""
        from eexit.studies.harness.model import EarlyExitLM, evaluate

        evaluation: Evaluation = part.what
        asked, about = self.asked, self._about(evaluation)
        lm = self._lm = EarlyExitLM(self._generator, evaluation.configuration, evaluation.seed, asked.first_token_exits)
        try:
            files, rows = evaluate(
                lm,
                evaluation.task,
                self._manager,
                about,
                num_fewshot=asked.num_fewshot,
                limit=asked.limit,
                apply_chat_template=asked.apply_chat_template,
                system_instruction=self.config.system or None,
            )
        except Exception as error:  # a task, a filter or a metric is code of others, and may raise anything
            return Done(tokens=lm.n_decided, error=f"{type(error).__name__}: {first_line(error)}")
        finally:
            self._lm = None
        store, folder = open_store(self._out), f"{HARNESS_FOLDER}/{evaluation.configuration.key.replace('/', '__')}"
        for name, content in files.items():
            store.publish(f"{folder}/{name}", content)
        common = self._common(evaluation, lm, about)
        return Done([{**common, **row} for row in rows], lm.n_decided)

    def progress(self) -> tuple[float, int]:
        lm = self._lm
        return (lm.done / lm.planned if lm and lm.planned else 0.0), lm.n_decided if lm else 0

    def closing(self, rows: Sequence[Row]) -> Sequence[ResultTable]:
        return [scores_table(rows)]

    def _common(self, evaluation: Evaluation, lm: "EarlyExitLM", about: Mapping[str, Any]) -> Row:
        return {
            **evaluation.configuration.columns,
            "readout": self.config.readout,
            "seed": evaluation.seed,
            "mean_depth": lm.mean_depth,
            "first_token_exits": self.asked.first_token_exits,
            "limit": self.asked.limit,
            "chat_template": self.asked.apply_chat_template,
            "model": self.config.model,
            "dtype": about["dtype"],
            "versions": about["versions"],
        }

    def _about(self, evaluation: Evaluation) -> Mapping[str, Any]:
        from eexit.model.quantization import precision_of

        config = self.config
        return {
            "pretrained": config.model,
            "revision": config.revision,
            "dtype": precision_of(self._generator.model),
            "configuration": evaluation.configuration.key,
            "seed": evaluation.seed,
            "first_token_exits": self.asked.first_token_exits,
            "exit_layers": list(self._generator.engine.decoding.exitable_layers),
            "readout": config.readout,
            "probe": config.probe,
            "adapter": config.adapter,
            "state": config.state,
            "decide_on": config.decide_on,
            "versions": with_versions({**versions(), "lm_eval": version("lm_eval")}),
        }


def scores_table(rows: Iterable[Mapping[str, Any]]) -> ResultTable:
    """A line for each configuration, seed, task, metric and filter, with a section for each configuration."""
    rows = list(rows)
    seeds = {row["seed"] for row in rows}
    table = ResultTable(CAPTION + "".join(f" Seed {seed}." for seed in seeds if len(seeds) == 1))
    table.add("key", "configuration", shorten=short_name)
    table.add("number", *["seed"] * (len(seeds) > 1))
    table.add("name", "task")
    table.add("number", "n-\nshot")
    table.add("name", "metric", "filter")
    table.add("number", "value", "stderr", "n", "depth")
    for row in rows:
        key, seed = row["configuration"], [str(row["seed"])] * (len(seeds) > 1)
        metric = ARROWS[row["higher_is_better"]] + row["metric"]
        names = [*seed, row["task"], written(row["n_shot"], ",.0f"), metric, row["filter"]]
        table.add_in(key, key, *names, *(written(row[name], form) for name, form in NUMBERS.items()))
    return table
