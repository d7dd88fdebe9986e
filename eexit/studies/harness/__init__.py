"""Early exit as a model of the lm-evaluation-harness (Gao et al. 2024, extra `lm-eval`), named `eexit`.

    python -m eexit.studies.harness --model eexit --tasks arc_easy \\
        --model_args pretrained=HuggingFaceTB/SmolLM2-135M,mode=frozen_residual,rule=confidence,parameter=0.9

This runs the command `lm_eval`, which requires models to be registered before it starts. From Python, `import
eexit.studies.harness` registers the model for `lm_eval.simple_evaluate(model="eexit", …)`. The harness imports the
model's module, and with it torch, when an evaluation starts.
"""

import lm_eval.models  # noqa: F401  # the harness registers its own models only while none is registered
from lm_eval.api.registry import model_registry

model_registry.register("eexit", target="eexit.studies.harness.early_exit_lm:EarlyExitLM")
