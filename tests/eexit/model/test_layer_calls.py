import torch
from tiny_models import tiny_model
from traces import kl_request, traces_of

from eexit.decode.engine import Engine
from eexit.decode.rows.requests import Decoding
from eexit.model.cache import KVCache
from eexit.model.decoder import Decoder
from eexit.model.layer_calls import CallsFor, LayerCall, row_axes
from eexit.model.views import CacheView

N_HEADS = 4


def call_for(n_rows: int, view: CacheView) -> LayerCall:
    """A bias that is not the rows', one per head; one of each row and head; a mask of each row; angles of each."""
    row_B = torch.arange(n_rows)
    per_row_and_head = row_B.repeat_interleave(N_HEADS)[:, None]
    return LayerCall(
        (torch.arange(N_HEADS)[:, None], None),
        {"alibi": per_row_and_head, "cache": view, "angles": (row_B[:, None], row_B[None].expand(2, -1)), "flag": True},
    )


def test_a_call_for_some_rows_has_what_is_theirs_and_all_of_what_is_nobodys() -> None:
    positions = torch.zeros(N_HEADS, 1, dtype=torch.long)  # as many rows as heads: which is which can't be told by size
    whole = CacheView(KVCache(N_HEADS, 8), positions, 1)
    rows = torch.tensor([3, 1])
    some = whole.among(rows)
    axes = row_axes([call_for(2, whole)], [call_for(3, whole)])
    [call] = CallsFor([call_for(N_HEADS, whole)], axes, whole, rows, some)
    assert call.args[0].flatten().tolist() == [0, 1, 2, 3]
    assert call.args[1] is None
    assert call.kwargs["alibi"].flatten().tolist() == N_HEADS * [3] + N_HEADS * [1]
    assert call.kwargs["cache"] is some
    assert [angles.tolist() for angles in call.kwargs["angles"]] == [[[3], [1]], [[3, 1], [3, 1]]]
    assert call.kwargs["flag"] is True


def test_as_many_rows_as_heads_decode_as_one_does() -> None:
    mpt = tiny_model("mpt")
    decoding = Decoding(exitable_layers=(1, 3, 4), max_new_tokens=8, eos_token_ids=frozenset(), record_top_k=1)
    engine = Engine(Decoder(mpt), decoding)
    requests = [kl_request((5, 80, token), "frozen_residual", 0.5) for token in range(mpt.config.n_heads)]
    together = traces_of(engine.generate(requests))
    for index, request in enumerate(requests):
        [alone] = traces_of(engine.generate([request])).values()
        assert together[index].token_id_T.tolist() == alone.token_id_T.tolist()
        assert together[index].exit_layer_T.tolist() == alone.exit_layer_T.tolist()
