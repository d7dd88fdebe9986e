"""Predictors from hidden states: the LM head, at one layer or at all; a screen; a probe.

To *read* a hidden state is to predict from it. The LM head reads next-token distributions, behind a readout. Logits are
made for a few tokens at a time, so that their memory grows neither with the batch nor with the number of exitable
layers.

Letters besides the table's: U tokens that a reading was made for, which several tokens may share.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from eexit.costs.operations import UnitCosts
from eexit.costs.unit_costs import Reads, count_unit_costs
from eexit.cpu.token_subset import Index, TokenSubset
from eexit.decode.requests import DecodingConfig
from eexit.decode.sampling import pick_tokens
from eexit.method.divergence import Divergence, compare, joined
from eexit.method.rules import LayerView
from eexit.model.layers import Decoder
from eexit.plan.sweep_config import Observe
from eexit.results.token_columns import recorded

# Bytes of logits that one product with the head makes, but at least those of LOGITS_ROWS hidden states. With fewer, the
# head's weights are fetched from memory too often. With more, a CPU's cache can't hold them until they are compared.
LOGITS_BYTES: Final = 8 << 20
LOGITS_BYTES_ON_GPU: Final = 64 << 20
LOGITS_ROWS: Final = 64


@dataclass(frozen=True)
class NextTokens:
    """Next tokens, and the recorded statistics of their distributions."""

    token_N: Tensor
    log_p_N: Tensor  # of the token, nats
    top_token_N: Tensor  # another token than the next one if that is sampled or forced
    top_token_NK: Tensor
    top_prob_NK: Tensor

    @classmethod
    def empty(cls, n_tokens: int, top_k: int, device: torch.device) -> "NextTokens":
        """Make room for tokens that are still to be read."""
        number_N, number_NK = torch.zeros(n_tokens, device=device), torch.zeros(n_tokens, top_k, device=device)
        return cls(number_N.long(), number_N, number_N.long(), number_NK.long(), number_NK)

    def fill(self, tokens: TokenSubset, others: "NextTokens") -> None:
        """Copy `others`, the next tokens of `tokens`, to the places of these tokens."""
        for each in fields(NextTokens):
            if (part := getattr(self, each.name)).numel():
                tokens.put(part, getattr(others, each.name))

    def columns(self) -> dict[str, Tensor]:
        return {
            "token_id_T": self.token_N,
            "exit_logprob_T": self.log_p_N,
            "exit_top_token_ids_TK": self.top_token_NK,
            "exit_top_prob_TK": self.top_prob_NK,
        }


@dataclass(frozen=True)
class HeadReading(Divergence):
    """Next-token distributions of B tokens after X layers, with each layer's divergence from the final one."""

    prefix_B: Tensor  # indices into U: tokens may share a reading
    head_input_UXF: Tensor
    logits_UV: Tensor | None = None  # of the last layer, if they are kept
    forced_log_p_U: Tensor | None = None  # of forced next tokens, nats

    def expand(self, prefix_B: Tensor) -> "HeadReading":
        """Return the readings of these tokens, in this order; repeats are allowed."""
        parts = {each.name: getattr(self, each.name)[prefix_B] for each in fields(Divergence)}
        return replace(self, prefix_B=self.prefix_B[prefix_B], **parts)

    def logprob(self, token_M: Tensor, at: Index = slice(None)) -> Tensor:
        """Return the log-probabilities of next tokens under the final layer's distributions at some indices, nats."""
        assert self.logits_UV is not None, "logits are kept"
        return self.logits_UV[self.prefix_B[at], token_M].float() - self.final_lse_B[at]

    def values(self) -> dict[str, Any]:
        """Return the fields of a `LayerView` for the last layer."""
        top2_prob, top_token = self.top_prob_BXK[:, -1, :2], self.top_token_BX[:, -1]
        values = {"reading": self, "top2_prob": top2_prob, "entropy": self.entropy_B, "top_token": top_token}
        return values if self.logits_UV is None else values | {"logits": self.logits_UV}

    def columns(self, token_B: Tensor, record_full_depth: Observe) -> dict[str, Tensor]:
        """Return the recorded columns of the full-depth pass, given the next tokens."""
        columns = {
            "kl_TE": self.kl_BE,
            "jsd_TE": self.jsd_BE,
            "logprob_T": self.logprob(token_B),
            "final_token_id_T": self.top_token_BX[:, -1],
            "entropy_T": self.entropy_B,
            "top_token_ids_TXK": self.top_token_BXK,
            "top_prob_TXK": self.top_prob_BXK,
        }
        return {name: columns[name] for name, *_ in recorded(record_full_depth) if name in columns}


@dataclass(frozen=True)
class LMHead:
    """LM head of a decoder behind a readout; hidden states after the final layer skip the readout."""

    decoder: Decoder
    decoding: DecodingConfig

    @property
    def layers(self) -> list[int]:
        """The exitable layers and the final one."""
        return [*self.decoding.exitable_layers, self.decoder.n_layers - 1]

    def head_input(self, hidden_ND: Tensor, layer: int) -> Tensor:
        """Return the head inputs, (N, F), of hidden states after a layer."""
        if layer == self.decoder.n_layers - 1:
            return self.decoder.head_input(hidden_ND)
        return self.decoding.readout.before_head(self.decoder, hidden_ND, layer)

    def read_layers(self, hidden_NXD: Tensor) -> HeadReading:
        """Read hidden states after the exitable layers, or the last few of them, and after the final layer."""
        read = enumerate(self.layers[-hidden_NXD.shape[1] :])
        head_input_NXF = torch.stack([self.head_input(hidden_NXD[:, at], layer) for at, layer in read], 1)
        return self.read(head_input_NXF, keeps_logits=True)

    def read(self, head_input_NXF: Tensor, forced_N: Tensor | None = None, keeps_logits: bool = False) -> HeadReading:
        """Read next-token distributions at some layers, and the log-probabilities of forced tokens at the last."""
        n_tokens, n_layers = head_input_NXF.shape[:2]
        keeps_logits = keeps_logits or (self.decoding.temperature > 0 and forced_N is None)
        top_k = max(self.decoding.record_top_k, 2 if n_layers == 1 else 0)  # rules read two top probabilities
        budget = LOGITS_BYTES if self.decoder.device.type == "cpu" else LOGITS_BYTES_ON_GPU
        n_rows = max(LOGITS_ROWS, budget // (self.decoder.vocabulary * self.decoder.dtype.itemsize))
        size = max(1, n_rows // n_layers)
        compared, final, forced = list[Divergence](), list[Tensor](), list[Tensor]()
        for start in range(0, n_tokens, size):
            some_NXF = head_input_NXF[start : start + size]
            logits_NXV = self.decoder.lm_head(some_NXF.flatten(0, 1)).unflatten(0, (-1, n_layers))
            compared.append(compare(logits_NXV, top_k))
            if keeps_logits:
                final.append(logits_NXV[:, -1].contiguous())
            if forced_N is not None:
                logit_N = logits_NXV[:, -1].gather(1, forced_N[start : start + size, None])[:, 0]
                forced.append(logit_N.float() - compared[-1].final_lse_B)
            del logits_NXV  # frees its memory for the next ones
        return HeadReading(
            **vars(Divergence.from_parts(compared)), prefix_B=torch.arange(n_tokens, device=head_input_NXF.device),
            head_input_UXF=head_input_NXF, logits_UV=joined(final) if final else None,
            forced_log_p_U=joined(forced) if forced else None,
        )  # fmt: skip

    def read_next_tokens(self, head_input_NF: Tensor, u_N: Tensor, forced_N: Tensor | None = None) -> NextTokens:
        """Read next tokens: forced, sampled with these draws, or the likeliest."""
        return self.next_tokens(self.read(head_input_NF[:, None], forced_N), slice(None), u_N, forced_N)

    def read_exits(self, reference: HeadReading, exit_B: Tensor, u_B: Tensor) -> NextTokens:
        """Return next tokens at exits, indices into X of the full-depth reference; to sample, they are read again."""
        if self.decoding.temperature > 0:
            return self.read_next_tokens(reference.head_input_UXF[reference.prefix_B, exit_B], u_B)
        return self.next_tokens(reference, torch.arange(len(exit_B), device=exit_B.device), u_B, rank=exit_B)

    def next_tokens(
        self, reading: HeadReading, at: Index, u_M: Tensor, forced_M: Tensor | None = None, rank: Tensor | int = -1
    ) -> NextTokens:
        """Return next tokens of the tokens at some indices of a reading, by the distributions after layer `rank`."""
        top_token_M, log_p_M = reading.top_token_BX[at, rank], reading.likeliest_log_p_BX[at, rank]
        token_M = top_token_M
        if forced_M is not None:
            assert reading.forced_log_p_U is not None, "forced tokens are read"
            token_M, log_p_M = forced_M, reading.forced_log_p_U[at]
        elif self.decoding.temperature > 0:
            token_M = self._sample(reading, at, u_M)
            log_p_M = reading.logprob(token_M, at)
        top_k = self.decoding.record_top_k
        top_token_MK, top_prob_MK = reading.top_token_BXK[at, rank], reading.top_prob_BXK[at, rank]
        return NextTokens(token_M, log_p_M, top_token_M, top_token_MK[:, :top_k], top_prob_MK[:, :top_k])

    def _sample(self, reading: HeadReading, at: Index, u_M: Tensor) -> Tensor:
        """Sample tokens, a few at a time."""
        assert reading.logits_UV is not None, "logits are kept"
        index_M, parts = reading.prefix_B[at], list[Tensor]()
        for start in range(0, len(index_M), LOGITS_ROWS):
            some = slice(start, start + LOGITS_ROWS)
            logits_NV = reading.logits_UV[index_M[some]]
            parts.append(pick_tokens(logits_NV, self.decoding.temperature, self.decoding.top_p, u_M[some]))
        return joined(parts)


# Of hidden states, and of next tokens if they are forced: values of `LayerView` and, of the LM head, its `reading`.
Predictor = Callable[[LayerView, Tensor | None], Mapping[str, Any]]


def predictors(head: LMHead, keeps_logits: bool = False) -> dict[str, Predictor]:
    """Return the predictors that rules read, by the column that counts their reads."""

    def head_input(view: LayerView) -> Tensor:
        return head.head_input(view.hidden_out, view.index)

    predict: dict[str, Predictor] = {
        "head_reads": lambda view, forced_N: head.read(head_input(view)[:, None], forced_N, keeps_logits).values()
    }
    if screen := head.decoding.screen:
        predict["screen_reads"] = lambda view, _: screen.read(head_input(view))
    if probe := head.decoding.probe:
        predict["probe_reads"] = lambda view, _: {
            "predicted_kl": probe.predicted_kl(view.hidden_out, view.index, view.parameter)
        }
    return predict


def measure_unit_costs(decoder: Decoder, decoding: DecodingConfig) -> UnitCosts:
    """Return the unit costs of a model's parts and predictors. Raise `UsageError` where costs contradict each other."""
    return count_unit_costs(decoder, partial(_reads, decoding), decoding.kv_maps)


def _reads(decoding: DecodingConfig, decoder: Decoder) -> list[Reads]:
    """Return the functions that read a hidden state at exitable layers and the final one, without comparing layers."""
    head = LMHead(decoder, decoding)
    predict: dict[str, Callable[[LayerView, Tensor | None], object]] = {**predictors(head)}
    predict["head_reads"] = lambda view, _: decoder.lm_head(head.head_input(view.hidden_out, view.index))
    if gate := decoding.gate:
        predict["gate_reads"] = lambda view, _: gate.chance(view.hidden_out, view.index, gate.rules[0])

    def read(name: str, layer: int, hidden_1D: Tensor) -> object:
        view = LayerView(layer, hidden_out=hidden_1D, parameter=torch.ones_like(hidden_1D[:, 0]))
        return predict[name](view, None)

    at_exits, at_final = [*predict], [name for name in predict if name in ("head_reads", "screen_reads")]
    names_X = [*[at_exits] * len(decoding.exitable_layers), at_final]
    return [
        {name: partial(read, name, layer) for name in names} for layer, names in zip(head.layers, names_X, strict=True)
    ]
