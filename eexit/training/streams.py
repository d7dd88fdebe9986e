"""Residual streams of texts, and what exits are worth there: how close layers are to the final one, the trade-off.

Streams are recomputed whenever they are needed: for a whole sweep they would be too large to keep.

Shapes: B rows (one), T tokens of a text, N tokens or positions of a block's answers, E exitable layers, X layers with
the final one last, W width of the residual stream.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

import torch
from torch import Tensor

from eexit.decode.layer_reading import read_layers
from eexit.decode.rows.requests import Decoding
from eexit.decode.teacher import teacher_pass
from eexit.method.divergence import Divergence
from eexit.method.readouts import Readout
from eexit.method.rules import RULES
from eexit.method.stick_breaking import exit_probabilities, expect
from eexit.model.cache import KVCache
from eexit.model.decoder import Decoder
from eexit.training.setup import KL_FACTORS
from eexit.training.texts import Text, blocks

BLOCK_TOKENS: Final = 2048  # of the streams that are there at a time
READ_TOKENS: Final = 64  # that are read at a time, since a reading keeps the final layer's logits

Row = dict[str, Any]


def streams(decoder: Decoder, block: Sequence[Text], layers: Sequence[int], decided_only: bool = False) -> Tensor:
    """The residual streams after `layers` and, last, after the final layer, (N, X, W), in the order of the texts.

    N are the positions from which an answer's tokens are read; with `decided_only`, without the first of each answer,
    for which no exit is drawn. They can be used in a computation of gradients, though they have none themselves.
    """
    kept = [*layers, decoder.n_layers - 1]
    with torch.inference_mode():
        states = torch.cat([text_pass(decoder, text, kept)[1][int(decided_only) :] for text in block])
    return states.clone()  # outside of inference mode, as an ordinary tensor


@torch.inference_mode()
def text_pass(decoder: Decoder, text: Text, kept: Sequence[int]) -> tuple[KVCache, Tensor]:
    """A text's keys and values at full depth, and the streams after `kept` where its answer's tokens are read,
    (T, X, W): up to the token before the last, whose position is the last that something is read from."""
    ids, first = [*text.prompt_token_ids, *text.token_ids[:-1]], len(text.prompt_token_ids) - 1
    token_BT, cache = torch.tensor([ids], device=decoder.device), KVCache(1, len(ids))
    view = decoder.view(cache, torch.arange(len(ids), device=decoder.device)[None], len(ids))
    with decoder.attending():
        return cache, teacher_pass(decoder, kept, token_BT, view, slice(first, None))[0][0]


def decided_streams(decoder: Decoder, texts: Sequence[Text], layers: Sequence[int]) -> Iterator[Tensor]:
    """The streams (N, X, W) of the texts' decided tokens, some texts at a time."""
    for block in blocks([text for text in texts if len(text.token_ids) > 1], BLOCK_TOKENS):
        yield streams(decoder, block, layers, decided_only=True)


@torch.inference_mode()
def read_all(decoder: Decoder, decoding: Decoding, states_NXW: Tensor) -> Divergence:
    """How exitable layers compare with the final one, some tokens at a time; on the CPU."""
    return joined([read_layers(decoder, some_NXW, decoding) for some_NXW in states_NXW.split(READ_TOKENS)])


def joined(parts: Sequence[Divergence]) -> Divergence:
    """Of the tokens of all parts; on the CPU."""
    names = [field.name for field in fields(Divergence)]
    return Divergence(*[torch.cat([getattr(part, name).cpu() for part in parts]) for name in names])


def compare(decoder: Decoder, readout: Readout, layers: Sequence[int], states_NXW: Tensor) -> Divergence:
    """Read exitable layers through `readout`, and compare them with the final layer."""
    return read_all(decoder, Decoding(tuple(layers), 1, frozenset(), readout=readout), states_NXW)


def compare_texts(
    decoder: Decoder, readouts: Mapping[str, Readout], layers: Sequence[int], texts: Sequence[Text]
) -> dict[str, Divergence]:
    """Compare the decided tokens of texts with the final layer, through each of these readouts."""
    parts: dict[str, list[Divergence]] = {name: [] for name in readouts}
    for states_NXW in decided_streams(decoder, texts, layers):
        for name, readout in readouts.items():
            parts[name].append(compare(decoder, readout, layers, states_NXW))
    return {name: joined(blocks) for name, blocks in parts.items()}


def agreement(compared: Divergence) -> Tensor:
    """1 where a layer's likeliest token is the final one's, else 0, (N, E)."""
    return (compared.likeliest_BX[:, :-1] == compared.likeliest_BX[:, -1:]).float()


def layer_rows(name: str, layers: Sequence[int], compared: Divergence) -> list[Row]:
    """A row per layer: how often it agrees with the final one (0 to 1), and the median and mean KL in nats."""
    columns = zip(layers, agreement(compared).T.contiguous(), compared.kl_BE.T.contiguous(), strict=True)
    return [  # contiguous: else the order of summation, and so the rounding, would depend on how many layers there are
        {
            "layer": layer,
            "readout": name,
            "agreement": agrees_N.mean().item(),
            "median_kl": kl_N.median().item(),
            "mean_kl": kl_N.mean().item(),
        }
        for layer, agrees_N, kl_N in columns
    ]


def trade_off_rows(
    named: Row, layers: Sequence[int], n_layers: int, compared: Divergence, seen: Mapping[float, Tensor] | None = None
) -> list[Row]:
    """A row per KL factor: mean depth, and what exits cost, given what full depth wrote; expectations, without draws.

    Exits follow the KLs (N, E) that are `seen` at each KL factor, by default the true ones. The control exits equally
    often at each layer, whatever the token.
    """
    seen = seen or dict.fromkeys(KL_FACTORS, compared.kl_BE)
    return [
        {**named, "kl_factor": factor, **_trade_off(layers, n_layers, compared, kl_NE, factor)}
        for factor, kl_NE in seen.items()
    ]


def _trade_off(layers: Sequence[int], n_layers: int, compared: Divergence, kl_NE: Tensor, factor: float) -> Row:
    chances = RULES["kl"].chances(kl_NE, torch.full_like(kl_NE, factor))
    expected = expect(exit_probabilities(chances), compared.kl_BE, agreement(compared))
    control = expect(expected.share_X.expand(len(kl_NE), -1), compared.kl_BE, agreement(compared))
    depth_X = torch.tensor([*(layer + 1 for layer in layers), n_layers]).double() / n_layers
    return {
        "mean_depth": (expected.share_X @ depth_X).item(),
        "exit_rate": (1 - expected.share_X[-1]).item(),
        "agreement": expected.agreement,
        "expected_kl": expected.kl,
        "control_agreement": control.agreement,
        "control_kl": control.kl,
    }
