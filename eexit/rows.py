"""What goes into the engine and what comes out: requests, how they are decoded, traces.

Shapes: T generated tokens, E exitable layers, X = E + 1 with the final layer last, K top tokens.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from eexit.config import Mode

CPU_CACHE_BYTES: Final = 4 << 30  # for keys and values; a card's follow from its free memory


@dataclass(frozen=True)
class Decoding:
    """How all rows decode. `readout` is lens or raw; `temperature` 0 is greedy; at most `rows` are in flight,
    and no more than their caches fit in `cache_bytes`; None: in what the device has room for, of which this process
    may take `memory_share`. `record_top_k` tokens of each layer are noted."""

    exitable_layers: tuple[int, ...]
    max_new_tokens: int
    eos_token_ids: frozenset[int]
    readout: str = "lens"
    temperature: float = 0.0
    top_p: float = 1.0
    record_top_k: int = 0
    rows: int = 1024
    cache_bytes: int | None = None
    memory_share: float = 1.0


@dataclass(frozen=True)
class Request:
    """One row. `kl_factor` is None for `normal`."""

    prompt_token_ids: tuple[int, ...]
    mode: Mode
    kl_factor: float | None
    seed: int = 0


@dataclass(frozen=True)
class Trace:
    """What a row generated, as `schema.TOKENS` defines it: KL, logprob and entropy in nats.

    The first token was not decided: it comes from the final layer, where its prompt was processed.
    """

    finish_reason: str
    token_id_T: np.ndarray
    exit_layer_T: np.ndarray
    kl_TE: np.ndarray
    exit_prob_TE: np.ndarray
    logprob_T: np.ndarray
    final_token_id_T: np.ndarray
    entropy_T: np.ndarray
    top_token_id_TXK: np.ndarray
    top_prob_TXK: np.ndarray
    exit_logprob_T: np.ndarray
    exit_top_token_id_TK: np.ndarray
    exit_top_prob_TK: np.ndarray


@dataclass(frozen=True)
class Failure:
    """Why a row could not be generated."""

    error: str


Outcome = Trace | Failure
