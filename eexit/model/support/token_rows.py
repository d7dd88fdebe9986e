"""A batch of many different rows from a few texts: each of their tokens as a row of its own, in no regular order.

What a layer does with more rows than a text has is seen so, though the model itself ran few texts, one by one.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from eexit.model.layer_calls import Handed
from eexit.model.support.watching import Forward


def token_rows(forwards: Sequence[Forward]) -> tuple[Forward, list[int]]:
    """The tokens of forwards as rows of one token each, as if the model had run them so; then the forward of each."""
    forward_of = [index for index, forward in enumerate(forwards) for _ in range(forward.token_1T.shape[1])]
    shuffled = torch.randperm(len(forward_of), generator=torch.Generator().manual_seed(0)).tolist()
    batch = rows_of(_joined([_tokens_apart(forward) for forward in forwards]), shuffled)
    return batch, [forward_of[row] for row in shuffled]


def rows_of(batch: Forward, rows: Sequence[int]) -> Forward:
    """Some rows of a batch, which may be repeated."""
    at = torch.tensor(rows, device=batch.token_1T.device)
    return replace(
        batch,
        token_1T=batch.token_1T[at],
        position_1T=batch.position_1T[at],
        entering_1TW=[stream[at] for stream in batch.entering_1TW],
        leaving_1TW=[stream[at] for stream in batch.leaving_1TW],
        handed=[
            replace(handed, query=handed.query[at], key=handed.key[at], value=handed.value[at])
            for handed in batch.handed
        ],
        attended=[attended[at] for attended in batch.attended],
    )


def _tokens_apart(forward: Forward) -> Forward:
    """A forward's tokens as rows, in their order; of keys and values there are those of the tokens alone."""
    n_tokens = forward.token_1T.shape[1]

    def apart(handed: Handed) -> Handed:
        query, key, value = (
            part[:, :, -n_tokens:].transpose(0, 2) for part in (handed.query, handed.key, handed.value)
        )
        return replace(handed, query=query, key=key, value=value, mask=None)

    return replace(
        forward,
        token_1T=forward.token_1T.mT,
        position_1T=forward.position_1T.mT,
        entering_1TW=[stream.transpose(0, 1) for stream in forward.entering_1TW],
        leaving_1TW=[stream.transpose(0, 1) for stream in forward.leaving_1TW],
        handed=[apart(handed) for handed in forward.handed],
        attended=[attended.transpose(0, 1) for attended in forward.attended],
    )


def _joined(batches: Sequence[Forward]) -> Forward:
    first = batches[0]
    handed = [
        replace(
            calls[0],
            query=torch.cat([call.query for call in calls]),
            key=torch.cat([call.key for call in calls]),
            value=torch.cat([call.value for call in calls]),
        )
        for calls in zip(*(batch.handed for batch in batches), strict=True)
    ]
    entering, leaving, attended = (
        [torch.cat(parts) for parts in zip(*lists, strict=True)]
        for lists in (
            [batch.entering_1TW for batch in batches],
            [batch.leaving_1TW for batch in batches],
            [batch.attended for batch in batches],
        )
    )
    return replace(
        first,
        token_1T=torch.cat([batch.token_1T for batch in batches]),
        position_1T=torch.cat([batch.position_1T for batch in batches]),
        entering_1TW=entering,
        leaving_1TW=leaving,
        handed=handed,
        attended=attended,
    )
