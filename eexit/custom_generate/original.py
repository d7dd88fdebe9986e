"""Generation of one text at a time, with the names and signatures of the original module, as a batch of one.

generator = KLExitGenerator(model=model, tokenizer=tokenizer, mode="frozen_residual",
                            exitable_layers=get_early_exit_indices(model))
tokens, exit_layers, prediction = generator.generate(inputs=inputs, kl_strength=1.0, max_new_tokens=100)
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import PreTrainedModel

from eexit.decode.engine import Engine
from eexit.decode.requests import DecodingConfig, Request, RequestFailure
from eexit.errors import UsageError
from eexit.method.modes import refuse_mode
from eexit.method.readouts import READOUTS
from eexit.model.chat import Tokenizer
from eexit.model.layers import Decoder
from eexit.model.loading import eos_token_ids, load_model_and_tokenizer
from eexit.model.sources import DEFAULT_MODEL
from eexit.output.text import did_you_mean
from eexit.plan.configuration import NORMAL, EarlyExit, NoExit, exiting_modes
from eexit.plan.exit_layers import every_nth_layer
from eexit.plan.grid_types import MAPPING
from eexit.plan.sweep_config import SweepConfig
from eexit.plan.validation_errors import explain
from eexit.results.original_format import evaluation_of
from eexit.results.shard_tables import exit_statistics, text_pieces


@dataclass(frozen=True)
class PredictionObject:
    """Record of a generation. T tokens, E exitable layers; KL, logprob and entropy are in nats."""

    text: str
    finish_reason: str
    token_ids: list[int]
    exit_layers: list[int]
    kl: np.ndarray  # (T, E)
    exit_prob: np.ndarray  # (T, E + 1)
    logprob: np.ndarray  # (T,)
    final_token_ids: list[int]
    entropy: np.ndarray  # (T,)


def get_early_exit_indices(model: PreTrainedModel, every: int = 5) -> list[int]:
    """Return the default exitable layers: l with 0 < l < L-1 and l % `every` == 0. Raise `UsageError` for none."""
    return list(every_nth_layer(model.config.get_text_config(decoder=True).num_hidden_layers, every))


class EarlyExitGenerator(ABC):
    """A model and its exitable layers. Raise `UsageError` for a mode, layers or a model that can't be used."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: Tokenizer, mode: str = "unfrozen",
        exitable_layers: Sequence[int] | None = None, readout: str = "lens",
    ):  # fmt: skip
        if mode not in (modes := exiting_modes()):
            meant = did_you_mean(mode, modes, f"choose from {', '.join(modes)}")
            raise UsageError(f"unknown mode {mode!r}: {meant}")
        if mode in MAPPING:
            raise UsageError(f"mode {mode} needs trained KV maps: run a sweep with --kv-maps, and package its setting")
        if readout not in READOUTS:
            raise UsageError(f"unknown readout {readout!r}: choose from {', '.join(READOUTS)}")
        self.tokenizer, self.mode, self.readout = tokenizer, mode, READOUTS[readout]
        self.exitable_layers = list(get_early_exit_indices(model) if exitable_layers is None else exitable_layers)
        self.decoder = Decoder(model)
        refuse_mode(self.mode, self.decoder)
        self.eos_token_ids = eos_token_ids(model, tokenizer)
        allowed = range(self.decoder.n_layers - 1)
        if not self.exitable_layers or self.exitable_layers != sorted(set(self.exitable_layers) & set(allowed)):
            raise UsageError(
                f"exitable_layers must be increasing and within 0…{self.decoder.n_layers - 2}, "
                f"got {self.exitable_layers}"
            )

    @abstractmethod
    def generate(
        self, inputs: Mapping[str, Tensor], *args: Any, **kwargs: Any
    ) -> tuple[list[str], list[int], PredictionObject]:
        """Return the texts of the tokens, the exit layer of each token, and the record of the generation."""

    def evaluate_response(
        self, tokens: Sequence[str], exit_layers: Sequence[int], inputs: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        """Return the original format's `evaluation`. The first token has no exit decision and does not count."""
        exits = exit_statistics(np.array(exit_layers[1:]), self.exitable_layers, self.decoder.n_layers)
        return evaluation_of(
            tokens=tokens, exit_layers=exit_layers, exitable_layers=self.exitable_layers,
            decided_at=dict(exits["exit_layer_counts"]), n_prompt_tokens=int(inputs["input_ids"].shape[-1]),
            mean_depth=exits["mean_depth"],
        )  # fmt: skip


class KLExitGenerator(EarlyExitGenerator):
    """Generator with rule `kl`: exit probability 2·sigmoid(−k·KL) at a layer, with KL(final ‖ layer) in nats."""

    def generate(
        self, inputs: Mapping[str, Tensor], kl_strength: float = 1.0, max_new_tokens: int = 100, seed: int = 0,
        temperature: float = 0.0, top_p: float = 1.0,
    ) -> tuple[list[str], list[int], PredictionObject]:  # fmt: skip
        """Generate from `inputs["input_ids"]` (1, T). `kl_strength` is the KL factor k, ≥ 0; higher exits later.

        Raise `UsageError` for a prompt that is empty or too long, and for a negative `kl_strength`.
        """
        if not kl_strength >= 0:
            raise UsageError(f"kl_strength must be ≥ 0, got {kl_strength}")
        decoding = DecodingConfig(
            exitable_layers=tuple(self.exitable_layers), max_new_tokens=max_new_tokens,
            eos_token_ids=self.eos_token_ids, readout=self.readout, temperature=temperature, top_p=top_p,
        )  # fmt: skip
        prompt = tuple(inputs["input_ids"][0].tolist())
        exits = NoExit() if self.mode == NORMAL else EarlyExit(self.mode, "kl", float(kl_strength))
        [(_, trace)] = Engine(self.decoder, decoding).generate([Request(prompt, exits, seed)])
        if isinstance(trace, RequestFailure):
            raise UsageError(trace.error)
        tokens = text_pieces(self.tokenizer, trace)
        prediction = PredictionObject(
            text="".join(tokens), finish_reason=trace.finish_reason, token_ids=trace.token_id_T.tolist(),
            exit_layers=trace.exit_layer_T.tolist(), kl=trace.kl_TE, exit_prob=trace.exit_prob_TX,
            logprob=trace.logprob_T, final_token_ids=trace.final_token_id_T.tolist(), entropy=trace.entropy_T,
        )  # fmt: skip
        return tokens, prediction.exit_layers, prediction


def load_default_model_and_tokenizer(
    model: str = DEFAULT_MODEL, device: str = "auto", dtype: str | torch.dtype = "auto", quantize: str | None = None
) -> tuple[PreTrainedModel, Tokenizer]:
    """Return the default model (or another) and its tokenizer; download it on first use, and quantise it on request.

    Raise `UsageError` if it can't be found or loaded.
    """
    asked = {"model": model, "dtype": dtype, "quantize": quantize, "prompts": [{"id": "0", "prompt": ""}]}
    try:
        config = SweepConfig.model_validate(asked)
    except ValidationError as error:
        call = Path("load_default_model_and_tokenizer")
        raise UsageError(explain(error, set(), call, SweepConfig.model_fields)) from error
    return load_model_and_tokenizer(config, device)
