"""Early exit as a model of the lm-evaluation-harness (Gao et al. 2024, extra `lm-eval`), named `eexit`.

    python -m eexit.studies.harness --model eexit --tasks arc_easy \\
        --model_args pretrained=HuggingFaceTB/SmolLM2-135M,mode=frozen_residual,rule=confidence,parameter=0.9

This is the command `lm_eval`, which only knows models that were registered before it begins. From Python, `import
eexit.studies.harness` registers the model for `lm_eval.simple_evaluate(model="eexit", …)`. The harness imports its
module, and torch with it, when an evaluation begins.
"""

import lm_eval.models  # noqa: F401  # the harness registers its own models only where no other is registered yet
from lm_eval.api.registry import model_registry

model_registry.register("eexit", target="eexit.studies.harness.early_exit_lm:EarlyExitLM")
