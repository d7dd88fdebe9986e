"""Whatever predicts from hidden states: the LM head, a screen, a probe, a gate, and the full-depth reference.

A predictor is a function of the hidden states in a `LayerView` that returns further values of it. Vocabulary-sized
temporaries are made for a few tokens at a time, so that their memory does not grow with the batch or the number of
exitable layers.

Shapes: N tokens, E exitable layers, X = E + 1 with the final layer last, K top tokens, D width of a hidden state, F
width of a head input, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import torch
from torch import Tensor

from eexit.cpu import kernels
from eexit.cpu.token_subset import Index, TokenSubset
from eexit.decode.requests import DecodingConfig
from eexit.decode.sampling import pick_tokens
from eexit.method.divergence import Divergence, divergence_from_final
from eexit.method.rules import LayerView
from eexit.model.layers import Decoder
from eexit.plan.config import Observe
from eexit.results.token_columns import recorded

# Bytes of logits that one product with the head makes, but those of LOGITS_ROWS hidden states at least. With fewer, the
# head's weights are fetched from memory too often; with more, a CPU's cache can't hold them until they are compared.
LOGITS_BYTES: Final = 8 << 20
LOGITS_BYTES_ON_GPU: Final = 64 << 20
LOGITS_ROWS: Final = 64
LOG_P_BYTES: Final = 1 << 20  # without the compiled kernel: of fp32 log-probabilities that are made at a time


@dataclass(frozen=True)
class NextTokens:
    """Next tokens, and what is recorded of the distributions that they were read from."""

    token_N: Tensor
    log_p_N: Tensor  # of the token, nats
    likeliest_N: Tensor  # another one than the token if that is sampled or given
    top_token_NK: Tensor
    top_prob_NK: Tensor

    @classmethod
    def empty(cls, n_tokens: int, top_k: int, device: torch.device) -> "NextTokens":
        """Make room for tokens that are still to be `put`."""
        token_N, top_NK = (torch.zeros(*shape, device=device) for shape in ((n_tokens,), (n_tokens, top_k)))
        return cls(token_N.long(), token_N, token_N.long(), top_NK.long(), top_NK)

    def put(self, tokens: TokenSubset, others: "NextTokens") -> None:
        """Replace the selected ones."""
        for field in fields(NextTokens):
            if (own := getattr(self, field.name)).numel():
                tokens.put(own, getattr(others, field.name))

    def columns(self) -> dict[str, Tensor]:
        """Return what is recorded of them, by column."""
        return {
            "token_id_T": self.token_N,
            "exit_logprob_T": self.log_p_N,
            "exit_top_token_ids_TK": self.top_token_NK,
            "exit_top_prob_TK": self.top_prob_NK,
        }


@dataclass(frozen=True)
class FullDepthReference(Divergence):
    """The full-depth distribution at a position of each of B sequences, and the exitable layers' divergence from it."""

    final_logits_UV: Tensor  # of unique prefixes
    hidden_UXD: Tensor  # after the layers that were read
    prefix_B: Tensor  # the prefix of each sequence

    def of(self, row_B: Tensor) -> "FullDepthReference":
        """Return the reference of these sequences, in this order; repeats are allowed."""
        parts = {field.name: getattr(self, field.name)[row_B] for field in fields(Divergence)}
        return replace(self, prefix_B=self.prefix_B[row_B], **parts)

    def logprob(self, token_B: Tensor) -> Tensor:
        """Return the log-probability of tokens under the final distribution, nats, (B,)."""
        return self.final_logits_UV[self.prefix_B, token_B].float() - self.final_lse_B

    def columns(self, token_B: Tensor, record_full_depth: Observe) -> dict[str, Tensor]:
        """Return what is recorded of the full-depth pass, by column, for sequences whose next tokens are `token_B`."""
        found = {
            "kl_TE": self.kl_BE,
            "logprob_T": self.logprob(token_B),
            "final_token_id_T": self.likeliest_BX[:, -1],
            "entropy_T": self.entropy_B,
            "top_token_ids_TXK": self.top_token_BXK,
            "top_prob_TXK": self.top_prob_BXK,
        }
        return {name: found[name] for name, *_ in recorded(record_full_depth) if name in found}

    def next_tokens(self, exit_B: Tensor) -> NextTokens:
        """Return the likeliest token at each exit; `exit_B` are indices into X, from its end if negative."""
        at = torch.arange(len(exit_B), device=exit_B.device), exit_B
        token_B, log_p_B = self.likeliest_BX[at], self.likeliest_log_p_BX[at]
        return NextTokens(token_B, log_p_B, token_B, self.top_token_BXK[at], self.top_prob_BXK[at])


@dataclass(frozen=True)
class Prediction:
    """What a predictor makes of hidden states: values of `LayerView` and, of the LM head, how next tokens are read."""

    values: Mapping[str, Tensor]
    next_tokens: Callable[[Index, Tensor], NextTokens] | None = None  # of tokens at these indices, by their draws
    head_input_NF: Tensor | None = None


@dataclass(frozen=True)
class LMHead:
    """A decoder's LM head behind a readout; the final layer is read as the model reads it."""

    decoder: Decoder
    decoding: DecodingConfig

    def head_input(self, hidden_ND: Tensor, layer: int) -> Tensor:
        """Return what goes into the head, (N, F), for hidden states after a layer."""
        if layer == self.decoder.n_layers - 1:
            return self.decoder.head_input(hidden_ND)
        return self.decoding.readout.before_head(self.decoder, hidden_ND, layer)

    def read(self, head_input_NF: Tensor, given_N: Tensor | None = None, keeps_logits: bool = False) -> Prediction:
        """Read distributions over next tokens; given tokens are the next ones."""
        size, is_sampled = _rows_at_a_time(self.decoder), self.decoding.temperature > 0 and given_N is None
        compared, log_p, kept = list[Divergence](), list[Tensor](), list[Tensor]()
        for start in range(0, len(head_input_NF), size):
            logits_NV = self.decoder.lm_head(head_input_NF[start : start + size])
            compared.append(_compare(logits_NV[:, None], max(2, self.decoding.record_top_k)))
            if keeps_logits or is_sampled:
                kept.append(logits_NV)
            if given_N is not None:
                of_given_N = logits_NV.gather(1, given_N[start : start + size, None])[:, 0]
                log_p.append(of_given_N.float() - compared[-1].final_lse_B)
        found = _joined(compared)
        likeliest_N, all_NV = found.likeliest_BX[:, 0], joined(kept) if kept else None
        values = {"top2_prob": found.top_prob_BXK[:, 0, :2], "entropy": found.entropy_B, "top_token": likeliest_N}
        log_p_N = joined(log_p) if log_p else found.likeliest_log_p_BX[:, 0]

        def next_tokens(at: Index, u_N: Tensor) -> NextTokens:
            token_N, log_p_of_N = (likeliest_N if given_N is None else given_N)[at], log_p_N[at]
            if is_sampled:
                assert all_NV is not None
                token_N, log_p_of_N = self._sample(all_NV, found.final_lse_B, at, u_N)
            top_NK = (part[at, 0, : self.decoding.record_top_k] for part in (found.top_token_BXK, found.top_prob_BXK))
            return NextTokens(token_N, log_p_of_N, likeliest_N[at], *top_NK)

        values |= {} if all_NV is None else {"logits": all_NV}
        return Prediction(values, next_tokens, head_input_NF)

    def next_tokens(self, head_input_NF: Tensor, u_N: Tensor, given_N: Tensor | None = None) -> NextTokens:
        """Read next tokens: given, sampled with these draws, or the likeliest."""
        read = self.read(head_input_NF, given_N)
        assert read.next_tokens
        return read.next_tokens(slice(None), u_N)

    def _sample(self, logits_NV: Tensor, lse_N: Tensor, at: Index, u_N: Tensor) -> tuple[Tensor, Tensor]:
        """Sample tokens, some at a time; return them and their log-probabilities."""
        row_N, parts = torch.arange(len(lse_N), device=lse_N.device)[at], list[Tensor]()
        for start in range(0, len(row_N), LOGITS_ROWS):
            some = slice(start, start + LOGITS_ROWS)
            of_some_NV = logits_NV[row_N[some]]
            parts.append(pick_tokens(of_some_NV, self.decoding.temperature, self.decoding.top_p, u_N[some]))
        token_N = joined(parts)
        return token_N, logits_NV[row_N, token_N].float() - lse_N[row_N]

    def read_layers(self, hidden_NXD: Tensor) -> FullDepthReference:
        """Read hidden states after the exitable layers and, last, after the final layer, and compare them.

        With fewer hidden states, they are those after the last of these layers.
        """
        layers = [*self.decoding.exitable_layers, self.decoder.n_layers - 1][-hidden_NXD.shape[1] :]
        head_input_NXF = torch.stack([self.head_input(hidden_NXD[:, at], layer) for at, layer in enumerate(layers)], 1)
        compared, final = list[Divergence](), list[Tensor]()
        for some_NXF in head_input_NXF.split(max(1, _rows_at_a_time(self.decoder) // len(layers))):
            logits_NXV = self.decoder.lm_head(some_NXF.flatten(0, 1)).unflatten(0, (-1, len(layers)))
            compared.append(_compare(logits_NXV, self.decoding.record_top_k))
            final.append(logits_NXV[:, -1].clone())
            del logits_NXV  # frees its memory for the next ones
        prefix_N = torch.arange(len(hidden_NXD), device=hidden_NXD.device)
        return FullDepthReference(
            **vars(_joined(compared)), final_logits_UV=joined(final), prefix_B=prefix_N, hidden_UXD=hidden_NXD
        )


Predictor = Callable[[LayerView, Tensor | None], Prediction]  # of hidden states, and of given next tokens if there are


def predictors(head: LMHead, keeps_logits: bool = False) -> dict[str, Predictor]:
    """Return the predictors that rules read, by the column that counts their reads."""

    def head_input(look: LayerView) -> Tensor:
        return head.head_input(look.hidden_out, look.index)

    found: dict[str, Predictor] = {
        "head_reads": lambda look, given_N: head.read(head_input(look), given_N, keeps_logits)
    }
    if screen := head.decoding.screen:
        found["screen_reads"] = lambda look, _: Prediction(screen.read(head_input(look)))
    if probe := head.decoding.probe:
        found["probe_reads"] = lambda look, _: Prediction(
            {"predicted_kl": probe.predicted_kl(look.hidden_out, look.index, look.parameter)}
        )
    return found


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Join parts along their first axis; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _joined(divergences: Sequence[Divergence]) -> Divergence:
    names = [field.name for field in fields(Divergence)]
    return Divergence(**{name: joined([getattr(each, name) for each in divergences]) for name in names})


def _rows_at_a_time(decoder: Decoder) -> int:
    """Return how many hidden states one product with the head reads."""
    budget = LOGITS_BYTES if decoder.device.type == "cpu" else LOGITS_BYTES_ON_GPU
    return max(LOGITS_ROWS, budget // (decoder.vocabulary * decoder.dtype.itemsize))


def _compare(logits_BXV: Tensor, top_k: int) -> Divergence:
    if compared := kernels.divergence(logits_BXV, top_k):
        return Divergence(*compared)
    on_gpu = logits_BXV.device.type != "cpu"
    size = len(logits_BXV) if on_gpu else max(1, LOG_P_BYTES // logits_BXV[0].numel() // 4)
    return _joined([divergence_from_final(rows_BXV, top_k) for rows_BXV in logits_BXV.split(size)])


def read_exits(student: Decoder, teacher: Decoder, exit_NF: Tensor, final_ND: Tensor) -> Divergence:
    """Compare what the student predicts at exits with what the teacher does after its final layer.

    `exit_NF` is what goes into the student's head there, and `final_ND` the teacher's hidden states. X is 2 in what is
    returned: the exit, and then the final layer.
    """
    final_NF, compared = teacher.head_input(final_ND), list[Divergence]()
    for row in torch.arange(len(exit_NF), device=exit_NF.device).split(_rows_at_a_time(teacher) // 2):
        logits = student.lm_head(exit_NF[row]), teacher.lm_head(final_NF[row])
        compared.append(_compare(torch.stack(logits, 1), 0))
    return _joined(compared)
