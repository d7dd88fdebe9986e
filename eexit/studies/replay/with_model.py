"""Replay with the model: exit scores of online rules on given texts, and tokens of exits that alter the KV cache."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eexit.costs.operations import UnitCosts
from eexit.decode.requests import DecodingConfig, Request
from eexit.decode.score import ScoredText, score_texts
from eexit.method.divergence import Divergence, compare
from eexit.method.rules import ONLINE, ORACLES
from eexit.model.decoders import DecoderPair
from eexit.plan.configuration import PERFECT, EarlyExit
from eexit.plan.sweep_config import SweepConfig
from eexit.studies.replay.from_records import (
    CostModel,
    ReplayResult,
    Transcript,
    costs_of,
    follows_from_full_depth,
    replay_at_full_depth,
    scores_at_full_depth,
)
from eexit.sweeps.generator import ModelGenerator
from eexit.training.hidden_states import READ_TOKENS, hidden_states, joined, read_all


class Replayer:
    """Replay of texts with a model, whose early-exit pass may have other weights."""

    def __init__(self, decoders: DecoderPair, decoding: DecodingConfig, unit_costs: UnitCosts):
        self.decoders, self.decoding = decoders, decoding
        self.layers = decoding.exitable_layers
        self.pricing = CostModel(self.layers, unit_costs, by_screen=decoding.screen is not None)
        self.full_depth_of, self.final_of = cache(self._full_depth_of), cache(self._final_of)
        self.chances_of = cache(self._chances_of)
        self._seen: dict[tuple[Any, ...], Tensor] = {}

    @classmethod
    def of_sweep(cls, config: SweepConfig, device: str = "auto") -> "Replayer":
        """Load the model of a sweep. Raise `UsageError` as `ModelGenerator` does."""
        generator = ModelGenerator(config, device)
        engine = generator.engine
        decoders = DecoderPair(engine.decoder, engine.student or engine.decoder)
        return cls(decoders, replace(engine.decoding, record_top_k=0), generator.unit_costs)

    @torch.inference_mode()
    def replay(self, settings: Sequence[EarlyExit], transcript: Transcript) -> list[ReplayResult]:
        """Replay a text under configurations that one pass can serve (a group of `from_records.together`)."""
        if not follows_from_full_depth(settings[0], not self.decoders.is_shared):
            return [self._as_drawn(setting, transcript) for setting in settings]
        full_depth = self.full_depth_of(transcript)
        with_full_depth = replace(transcript, full_depth=full_depth)
        return [
            replay_at_full_depth(
                each, with_full_depth, self._exit_scores(each, transcript, full_depth), self.layers, self.pricing
            )
            for each in settings
        ]

    def _exit_scores(self, setting: EarlyExit, transcript: Transcript, full_depth: Divergence) -> Tensor | None:
        """Return the exit scores, NaN at layers that a gate blocks; None if the rule has no scores.

        One pass over a text serves all parameters, exit sets and gates of most rules.
        """
        if setting.rule in ORACLES:
            return scores_at_full_depth(setting, full_depth, self.layers)
        if setting.rule not in ONLINE:
            return None
        seen_NE = self._ungated_scores(setting, transcript)
        if setting.gate is None or setting.gate == PERFECT:
            return seen_NE
        is_shut_NE = self.chances_of(transcript)[setting.gated_rule] < float(setting.gate)
        return seen_NE.masked_fill(is_shut_NE, torch.nan)

    def _ungated_scores(self, setting: EarlyExit, transcript: Transcript) -> Tensor:
        """Return an online rule's ungated exit scores, at all layers or, if it compares layers, at its exit set."""
        rule = ONLINE[setting.rule]
        layers = setting.layers if rule.needs_history else ()
        parameter = setting.parameter if rule.takes_parameter or rule.needs_probe else None
        key = (setting.rule, parameter, layers, transcript)
        if key not in self._seen:
            exits_nowhere = np.ones(len(transcript.text.token_ids), np.float32)
            scored = self._score(replace(setting, layers=layers, gate=None), transcript, exits_nowhere)
            self._seen[key] = torch.from_numpy(scored.exit_score_TE[1:])
        return self._seen[key]

    def _chances_of(self, transcript: Transcript) -> Mapping[str, Tensor]:
        """Return the gate's predicted exit probabilities, (N, E), by rule."""
        gate = self.decoding.gate
        assert gate
        hidden_NXD = hidden_states(self.decoders.full_depth, [transcript.text], self.layers, decided_only=True)
        at_layer = [*enumerate(self.layers)]
        return {
            rule: torch.stack([gate.chance(hidden_NXD[:, rank], layer, rule) for rank, layer in at_layer], 1).cpu()
            for rule in gate.rules
        }

    def _as_drawn(self, setting: EarlyExit, transcript: Transcript) -> ReplayResult:
        """Replay with exits drawn by the run's seed, and compare the tokens read there with full depth's.

        The exits' distribution is exact for rules that do not read the early-exit pass.
        """
        scored = self._score(setting, transcript)
        student, full_depth = self.decoders.early_exit, self.decoders.full_depth
        exit_N = np.searchsorted([*self.layers, full_depth.n_layers - 1], scored.exit_layer_T[1:])
        final_NW = self.final_of(transcript).to(full_depth.device)
        parts = zip(scored.exit_ready_TF[1:].split(READ_TOKENS), final_NW.split(READ_TOKENS), strict=True)
        logits_N2V = (
            torch.stack([student.lm_head(exit_NF), full_depth.lm_head(full_depth.head_input(final_NW))], 1)
            for exit_NF, final_NW in parts
        )
        read = joined([compare(some_N2V, 0) for some_N2V in logits_N2V])
        unlike_N = read.top_token_BX[:, 0] != read.top_token_BX[:, 1]
        prob_NX = np.eye(len(self.layers) + 1)[exit_N] if setting.rule in ONLINE else scored.exit_prob_TX[1:]
        score_NE = torch.from_numpy(scored.exit_score_TE[1:])
        costs = costs_of(setting, exit_N, score_NE, len(transcript.text.prompt_token_ids), self.pricing)
        kl, unlike = read.kl_BE[:, 0].double().mean().item(), unlike_N.double().mean().item()
        is_drawn = not np.isin(scored.exit_prob_TX, (0, 1)).all()  # NaN is for layers with a chance
        share_X = prob_NX.mean(0, dtype=np.float64)
        return ReplayResult(share_X, kl, unlike, float(unlike_N.any()), costs, is_drawn)

    def _score(self, setting: EarlyExit, transcript: Transcript, u_exit_T: np.ndarray | None = None) -> ScoredText:
        text = transcript.text
        request = Request(text.prompt_token_ids, setting, transcript.seed)
        full_depth, student, ids = self.decoders.full_depth, self.decoders.early_exit, text.token_ids
        return score_texts(full_depth, self.decoding, request, [ids], student, u_exit_T)[0]

    def _full_depth_of(self, transcript: Transcript) -> Divergence:
        """Return the full-depth divergence, as recorded or computed now."""
        if transcript.full_depth is not None:
            return transcript.full_depth
        hidden_NXD = hidden_states(self.decoders.full_depth, [transcript.text], self.layers, decided_only=True)
        return read_all(self.decoders.full_depth, self.decoding, hidden_NXD)

    def _final_of(self, transcript: Transcript) -> Tensor:
        """Return the hidden states after the model's final layer, (N, W), on the CPU."""
        return hidden_states(self.decoders.full_depth, [transcript.text], (), decided_only=True)[:, -1].cpu()
