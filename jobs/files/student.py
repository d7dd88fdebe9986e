"""Train a student: a LoRA adapter for readouts at early layers. It needs eexit[student].

    eexit student results/texts --output_dir exits/student --num_train_epochs 2
    eexit train results/texts --what linear --adapter exits/student --out exits/linear
    eexit sweep --adapter exits/student --readout exits/linear --rules confidence=0.97 --out results/student

Each step's loss is the sum of the final layer's and of --early-scale times that of an exitable layer drawn for the
step, both through the model's final norm and lm_head, as in LayerSkip (Elhoushi et al. 2024). It is the cross-entropy
of the next token or, with --loss kl, the KL divergence from the model itself at full depth. Texts are a sweep's in mode
normal, without the held-out prompts of `eexit train`, or the paragraphs of a text file. Further flags are those of
transformers' TrainingArguments (--learning_rate, --bf16, --resume_from_checkpoint, …).
"""

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from cluster.console.command import command
from cluster.console.flags import whole
from cluster.console.parser import Parser
from eexit.errors import UsageError
from eexit.plan.sweep_config import Prompt, SweepConfig

OUTSIDE = -100  # the label of a token without loss
FP32, NONE = {"dtype": "float32", "adapter": None}, Prompt(id="0", prompt="?")


@command("checkpoints stay: --resume_from_checkpoint goes on from one")
def main(arguments: Sequence[str]) -> int:
    """Run `eexit student`. Return 0 if the adapter was saved, 1 if it stopped before, 2 for bad input."""
    parser = Parser(__doc__)
    parser.add_argument("texts", help="folder or URI of a finished sweep that has mode normal, or a text file")
    parser.add_argument("--model", default=SweepConfig.model_fields["model"].default, help="the model, for a text file")
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code from the model's repository")
    parser.add_argument("--loss", choices=("cross-entropy", "kl"), default="cross-entropy", help="loss function")
    parser.add_argument("--early-scale", type=float, default=0.2, metavar="W", help="weight of the early layer's loss")
    parser.add_argument("--exit-every", type=whole, default=5, metavar="N", help="every N-th layer is exitable")
    parser.add_argument("--lora-r", type=whole, default=32, metavar="N", help="rank of the adapter")
    parser.add_argument("--most-tokens", type=whole, default=512, metavar="N", help="maximum number of tokens per text")
    flags, others = parser.parse_known_args(arguments)
    try:
        from peft import LoraConfig, get_peft_model
        from transformers import HfArgumentParser, TrainingArguments

        of_trainer: Any = HfArgumentParser([TrainingArguments])  # type: ignore[list-item]
        of_trainer.error = parser.error
        of_trainer.set_defaults(per_device_train_batch_size=4, logging_steps=10)
        options, unknown = of_trainer.parse_args_into_dataclasses(others, return_remaining_strings=True)
    except ImportError as error:
        raise UsageError(f"{error.msg}: pip install 'eexit[student]'") from error
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    from eexit.model.layers import Decoder
    from eexit.model.loading import load_model_and_tokenizer
    from eexit.plan.exit_layers import every_nth_layer

    config, texts = config_and_texts(flags)
    model, _ = load_model_and_tokenizer(config)
    decoder = Decoder(model.to(options.device).requires_grad_(False))
    early = early_trainer(decoder, every_nth_layer(decoder.n_layers, flags.exit_every), flags)
    lora = LoraConfig(r=flags.lora_r, lora_alpha=flags.lora_r, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = early(get_peft_model(model, lora), options, data_collator=padded, train_dataset=texts)
    trainer.train(resume_from_checkpoint=options.resume_from_checkpoint)
    trainer.save_model()
    words = ["--model", config.model, *(["--revision", config.revision] if config.revision else [])]
    words += ["--trust-remote-code"] if flags.trust_remote_code else []
    out = f"{options.output_dir.rstrip('/')}-sweep"
    print(shlex.join(["eexit", "sweep", *words, "--adapter", options.output_dir, "--out", out]))
    return 0


def config_and_texts(flags: Namespace) -> tuple[SweepConfig, list[dict[str, list[int]]]]:
    """Return the configuration of the model in fp32, and the tokens of each text with their labels.

    Raise `UsageError` if there are no tokens to learn from.
    """
    from eexit.model.loading import load_tokenizer
    from eexit.results.finished_sweep import read_finished
    from eexit.training.texts import read_texts

    if (path := Path(flags.texts)).is_file():
        of_model = {"model": flags.model, "trust_remote_code": flags.trust_remote_code, **FP32}
        config = SweepConfig(prompts=(NONE,)).model_copy(update=of_model)
        tokenizer = load_tokenizer(config)
        every = [(0, [*tokenizer(part)["input_ids"]]) for part in path.read_text("utf-8").split("\n\n") if part]
    else:
        sweep = read_finished(flags.texts, ["prompt_id"], trusts_code=flags.trust_remote_code)
        config = sweep.config(with_exits=False).model_copy(update=FP32)
        learned = [text for text in read_texts(sweep.store) if not text.held_out]
        every = [(len(text.prompt_token_ids), [*text.prompt_token_ids, *text.token_ids]) for text in learned]
    rows = [(n, ids[: flags.most_tokens]) for n, ids in every]
    if not (rows := [(n, ids) for n, ids in rows if len(ids) > max(n, 1)]):
        raise UsageError(f"{flags.texts} has no token to learn from within --most-tokens {flags.most_tokens}")
    return config, [{"input_ids": ids, "labels": [*[OUTSIDE] * n, *ids[n:]]} for n, ids in rows]


def padded(rows: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
    """Pad sequences on the right to one length."""
    from torch import ones_like, tensor
    from torch.nn.utils.rnn import pad_sequence

    ids, labels = ([tensor(row[name]) for row in rows] for name in ("input_ids", "labels"))
    filled = {"input_ids": (ids, 0), "labels": (labels, OUTSIDE), "attention_mask": ([*map(ones_like, ids)], 0)}
    return {name: pad_sequence(each, batch_first=True, padding_value=value) for name, (each, value) in filled.items()}


def early_trainer(decoder: Any, layers: Sequence[int], flags: Namespace) -> Any:
    """Return a `Trainer` whose loss adds the final layer's and a randomly drawn exitable layer's."""
    from torch import nn, no_grad
    from transformers import Trainer

    class EarlyTrainer(Trainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: Any = False, num_items_in_batch: Any = None
        ) -> Any:
            is_read_BT = (labels_BT := inputs.pop("labels")[:, 1:]) != OUTSIDE
            said = model(**inputs, output_hidden_states=True)
            layer = Random(f"{self.args.seed} {self.state.global_step}").choice(layers)
            hidden_ND = said.hidden_states[layer + 1][:, :-1][is_read_BT]
            read = [decoder.lm_head(decoder.head_input(hidden_ND)), said.logits[:, :-1][is_read_BT]]
            if flags.loss == "kl":
                with no_grad(), self.accelerator.unwrap_model(model).disable_adapter():
                    teacher_NV = model(**inputs).logits[:, :-1][is_read_BT].log_softmax(-1)
                kl = nn.KLDivLoss(reduction="sum", log_target=True)
                losses = [kl(each.log_softmax(-1), teacher_NV) for each in read]
            else:
                losses = [nn.CrossEntropyLoss(reduction="sum")(each, labels_BT[is_read_BT]) for each in read]
            n_read = is_read_BT.sum() if num_items_in_batch is None else num_items_in_batch
            mean = (flags.early_scale * losses[0] + losses[1]) / n_read
            return (mean, said) if return_outputs else mean

    return EarlyTrainer


if __name__ == "__main__":
    sys.exit(main())
