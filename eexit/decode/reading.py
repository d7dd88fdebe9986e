"""From residual streams to distributions and tokens.

Vocabulary-sized temporaries are made for a few rows at a time, so that their memory does not grow with the batch or the
number of exitable layers.

Shapes: B rows, U unique prefixes, E exitable layers, X = E + 1 with the final layer last, K top tokens, W width of the
residual stream, H width of what the head takes, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import torch
from torch import Tensor

from eexit.cpu import kernels
from eexit.cpu.chosen import Chosen
from eexit.decode.requests import Decoding
from eexit.decode.sampling import pick_tokens
from eexit.method.divergence import Divergence, divergence_from_final
from eexit.method.readouts import Readout
from eexit.method.rules import LOGITS, Rule
from eexit.model.layers import Decoder
from eexit.plan.config import Observe
from eexit.results.token_columns import recorded

# Bytes of logits that one product with the head makes, but those of LOGITS_ROWS residual streams at least. With fewer,
# the head's weights are fetched from memory too often; with more, a CPU's cache can't hold them until they are
# compared.
LOGITS_BYTES: Final = 8 << 20
LOGITS_BYTES_ON_GPU: Final = 64 << 20
LOGITS_ROWS: Final = 64
LOG_P_BYTES: Final = 1 << 20  # without the compiled kernel: of fp32 log-probabilities that are made at a time


@dataclass(frozen=True)
class Reader:
    """What goes into the head, from streams: exitable layers by a readout, the final one as the model does it."""

    decoder: Decoder
    readout: Readout

    @property
    def final(self) -> int:
        return self.decoder.n_layers - 1

    def ready(self, hidden_BW: Tensor, layer: int) -> Tensor:
        """Return what goes into the head, (B, H), for streams after a layer."""
        if layer == self.final:
            return self.decoder.normed(hidden_BW)
        return self.readout.before_head(self.decoder, hidden_BW, layer)


@dataclass(frozen=True)
class Reading(Divergence):
    """The full-depth distribution at one position of each row, and how far the exitable layers are from it."""

    final_logits_UV: Tensor
    prefix_B: Tensor  # which of the U prefixes is a row's

    def of(self, row_B: Tensor) -> "Reading":
        """Return the reading of these rows, in this order; repeats are allowed."""
        parts = {field.name: getattr(self, field.name)[row_B] for field in fields(Divergence)}
        return replace(self, prefix_B=self.prefix_B[row_B], **parts)

    def logprob(self, token_B: Tensor) -> Tensor:
        """Return the log-probability of tokens under the final distribution, nats, (B,)."""
        return self.final_logits_UV[self.prefix_B, token_B].float() - self.final_lse_B

    def columns(self, token_B: Tensor, observe: Observe) -> dict[str, Tensor]:
        """Return what is recorded of the full-depth pass, by column, for rows whose next tokens are `token_B`."""
        seen = {
            "kl_TE": self.kl_BE,
            "logprob_T": self.logprob(token_B),
            "final_token_id_T": self.likeliest_BX[:, -1],
            "entropy_T": self.entropy_B,
            "top_token_ids_TXK": self.top_token_BXK,
            "top_prob_TXK": self.top_prob_BXK,
        }
        return {name: seen[name] for name, *_ in recorded(observe) if name in seen}

    def picked(self, exit_B: Tensor) -> "Picked":
        """Return the likeliest token of each row at its exit; `exit_B` are indices into X, from its end if negative."""
        at = torch.arange(len(exit_B), device=exit_B.device), exit_B
        token_B, log_p_B = self.likeliest_BX[at], self.likeliest_log_p_BX[at]
        return Picked(token_B, log_p_B, token_B, self.top_token_BXK[at], self.top_prob_BXK[at])


@dataclass(frozen=True)
class Picked:
    """The rows' next tokens, and what is recorded of the distributions that they were read from."""

    token_B: Tensor
    log_p_B: Tensor  # of the token, nats
    likeliest_B: Tensor  # the likeliest token, which may be another one if that is sampled or given
    top_token_BK: Tensor
    top_prob_BK: Tensor

    @classmethod
    def room_for(cls, n_rows: int, top_k: int, device: torch.device) -> "Picked":
        """Make room for tokens that are still to be `put`."""
        token_B = torch.zeros(n_rows, dtype=torch.long, device=device)
        top_token_BK = token_B.new_zeros(n_rows, top_k)
        return cls(token_B, token_B.float(), token_B.clone(), top_token_BK, top_token_BK.float())

    def columns(self) -> dict[str, Tensor]:
        """Return what is recorded of the tokens, by column."""
        return {
            "token_id_T": self.token_B,
            "exit_logprob_T": self.log_p_B,
            "exit_top_token_ids_TK": self.top_token_BK,
            "exit_top_prob_TK": self.top_prob_BK,
        }

    def put(self, rows: Chosen, picked: "Picked") -> None:
        """Replace what was picked for the chosen rows."""
        for own, other in self._beside(picked):
            rows.put(own, other)

    def put_first(self, picked: "Picked") -> None:
        """Replace what was picked for the first rows."""
        for own, other in self._beside(picked):
            own[: len(other)] = other

    def _beside(self, picked: "Picked") -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the tensors of both that hold anything."""
        for field in fields(Picked):
            own: Tensor = getattr(self, field.name)
            if own.numel():
                yield own, getattr(picked, field.name)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Join parts along their first axis; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _joined(divergences: Sequence[Divergence]) -> Divergence:
    names = [field.name for field in fields(Divergence)]
    return Divergence(**{name: joined([getattr(each, name) for each in divergences]) for name in names})


def read_layers(decoder: Decoder, states_BXW: Tensor, decoding: Decoding) -> Reading:
    """Read the residual streams after the exitable layers and, last, after the final layer, and compare them.

    With fewer streams, they are those after the last of these layers.
    """
    reader = Reader(decoder, decoding.readout)
    layers = [*decoding.exitable_layers, reader.final][-states_BXW.shape[1] :]
    ready_BXH = torch.stack([reader.ready(states_BXW[:, rank], layer) for rank, layer in enumerate(layers)], 1)
    n_rows, n_states, _ = ready_BXH.shape
    size = max(1, _rows_at_a_time(decoder) // n_states)
    compared: list[Divergence] = []
    for start in range(0, n_rows, size):
        logits_BXV = decoder.head(ready_BXH[start : start + size].flatten(0, 1)).unflatten(0, (-1, n_states))
        compared.append(_compare(logits_BXV, decoding.record_top_k))
        if start == 0:
            final_logits_UV = logits_BXV.new_empty(n_rows, logits_BXV.shape[-1])
        final_logits_UV[start : start + size] = logits_BXV[:, -1]
        del logits_BXV  # frees its memory for the next ones
    prefix_B = torch.arange(n_rows, device=states_BXW.device)
    return Reading(**vars(_joined(compared)), final_logits_UV=final_logits_UV, prefix_B=prefix_B)


def _rows_at_a_time(decoder: Decoder) -> int:
    """Return how many residual streams one product with the head reads."""
    budget = LOGITS_BYTES if decoder.device.type == "cpu" else LOGITS_BYTES_ON_GPU
    return max(LOGITS_ROWS, budget // (decoder.vocabulary * decoder.dtype.itemsize))


def _compare(logits_BXV: Tensor, top_k: int) -> Divergence:
    if compared := kernels.divergence(logits_BXV, top_k):
        return Divergence(*compared)
    on_gpu = logits_BXV.device.type != "cpu"
    size = len(logits_BXV) if on_gpu else max(1, LOG_P_BYTES // logits_BXV[0].numel() // 4)
    return _joined([divergence_from_final(rows_BXV, top_k) for rows_BXV in logits_BXV.split(size)])


def read_tokens(
    decoder: Decoder, decoding: Decoding, ready_BH: Tensor, u_B: Tensor | None, given_B: Tensor | None = None
) -> Picked:
    """Read the next tokens of rows, from what goes into the head of each, (B, H), unless they are given."""
    return read_ready(decoder, ready_BH, decoding, given_B).taken(slice(None), decoding, u_B)


def read_exits(student: Decoder, teacher: Decoder, exit_BH: Tensor, final_BW: Tensor) -> Divergence:
    """Compare what the student says at rows' exits with what the teacher says after its final layer.

    `exit_BH` is what goes into the student's head there, and `final_BW` the teacher's residual streams. X is 2 in what
    is returned: the exit, and then the final layer.
    """
    final_BH, compared = teacher.normed(final_BW), list[Divergence]()
    for row in torch.arange(len(exit_BH), device=exit_BH.device).split(_rows_at_a_time(teacher) // 2):
        logits = student.head(exit_BH[row]), teacher.head(final_BH[row])
        compared.append(_compare(torch.stack(logits, 1), 0))
    return _joined(compared)


@dataclass(frozen=True)
class LayerReading:
    """One distribution for each row, and the token that the row gets if it exits there.

    That is the likeliest one or a given one; where tokens are `sampled`, logits are kept for the rows that do exit, and
    where a rule looks at them, too.
    """

    seen: Divergence  # of one layer: X is 1, and K at least 2
    likeliest_B: Tensor
    token_B: Tensor
    log_p_B: Tensor
    logits_BV: Tensor | None
    sampled: bool

    def seen_by(self, rule: Rule, row_B: Tensor | slice) -> dict[str, Tensor]:
        """Return what a rule looks at, of these rows, by the names of `Look`."""
        top_p_B2, entropy_B = self.seen.top_prob_BXK[row_B, 0, :2], self.seen.entropy_B[row_B]
        seen = {"top_p": top_p_B2, "entropy": entropy_B, "likeliest": self.likeliest_B[row_B]}
        if rule.needs == LOGITS:
            assert self.logits_BV is not None, "logits were kept for the rule"
            seen["logits"] = self.logits_BV[row_B]
        return seen

    def taken(self, row_B: Tensor | slice, decoding: Decoding, u_B: Tensor | None) -> Picked:
        """Return the next tokens of these rows, if they leave."""
        token_B, log_p_B, k = self.token_B[row_B], self.log_p_B[row_B], decoding.record_top_k
        likeliest_B = token_B if self.token_B is self.likeliest_B else self.likeliest_B[row_B]
        if self.sampled:
            assert self.logits_BV is not None
            assert u_B is not None
            row_B = torch.arange(len(self.token_B), device=token_B.device)[row_B]
            parts = []
            for start in range(0, len(row_B), LOGITS_ROWS):
                at = slice(start, start + LOGITS_ROWS)
                logits_BV = self.logits_BV[row_B[at]]
                parts.append(pick_tokens(logits_BV, decoding.temperature, decoding.top_p, u_B[at]))
            token_B = joined(parts)
            log_p_B = self.logits_BV[row_B, token_B].float() - self.seen.final_lse_B[row_B]
        top_token_BK, top_prob_BK = self.seen.top_token_BXK[row_B, 0, :k], self.seen.top_prob_BXK[row_B, 0, :k]
        return Picked(token_B, log_p_B, likeliest_B, top_token_BK, top_prob_BK)


def read_ready(
    decoder: Decoder, ready_BH: Tensor, decoding: Decoding, given_B: Tensor | None = None, keeps_logits: bool = False
) -> LayerReading:
    """Read rows from what goes into the head, (B, H): what is recorded comes from comparing one layer alone."""
    size, sampled = _rows_at_a_time(decoder), decoding.temperature > 0 and given_B is None
    seen: list[Divergence] = []
    log_p: list[Tensor] = []
    kept: list[Tensor] = []
    for start in range(0, len(ready_BH), size):
        logits_BV = decoder.head(ready_BH[start : start + size])
        seen.append(_compare(logits_BV[:, None], max(2, decoding.record_top_k)))
        if sampled or keeps_logits:
            kept.append(logits_BV)
        if given_B is not None:
            of_given_B = logits_BV.gather(1, given_B[start : start + size, None])[:, 0]
            log_p.append(of_given_B.float() - seen[-1].final_lse_B)
    whole = _joined(seen)
    likeliest_B = whole.likeliest_BX[:, 0]
    token_B = likeliest_B if given_B is None else given_B
    log_p_B = joined(log_p) if log_p else whole.likeliest_log_p_BX[:, 0]
    return LayerReading(whole, likeliest_B, token_B, log_p_B, joined(kept) if kept else None, sampled)
