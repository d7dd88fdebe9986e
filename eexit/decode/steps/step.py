"""One step of all rows in flight: each gets its next token or, if it drafts, several.

Shapes: B rows, D tokens being decided, X exitable layers and then the final one.
"""

import numpy as np
import torch
from torch.profiler import record_function

from eexit.decode.exit_pass import ExitsTaken, deciding_of, exit_pass, last_tokens
from eexit.decode.layer_reading import Reading, read_tokens
from eexit.decode.rows.transfer import to_device, to_host
from eexit.decode.steps.batch import Batch
from eexit.decode.steps.beside import pass_beside
from eexit.decode.steps.drafting import draft_round
from eexit.decode.steps.observing import read_complete
from eexit.decode.steps.teaching import TeacherPass, teach
from eexit.decode.teacher import Prefilled


@torch.inference_mode()
def step(batch: Batch) -> None:
    """Give every row in flight its next tokens."""
    if batch.drafts:
        draft_round(batch)
        return
    # 1. Beside oracles, the teacher takes the rows' last tokens through all layers, and is read.
    taught = teach(batch) if batch.teacher else None
    # 2. The tokens go as deep as their rules say, and the next ones are read there; states say what deeper layers hold.
    slots, taken = np.arange(batch.n_rows), take_exits(batch, taught)
    # 3. Everything is recorded. Tokens that are through all layers without a teacher are read later, many at once.
    record(batch, slots, taken, taught.reading if taught else None)
    for through in taken.through:
        np.add.at(batch.n_observed, through.slot_N, 1)
        batch.complete.append(through)
    read_complete(batch, if_many=True)


def take_exits(batch: Batch, taught: TeacherPass | None) -> ExitsTaken:
    """Where the rows' last tokens exit: known before where a teacher was read, or decided layer by layer."""
    if taught is None:
        deciding = deciding_of(batch, batch.student.decoder.device)
        return exit_pass(batch.student, batch.decoding, last_tokens(batch), deciding)
    if batch.shares:
        return pass_beside(batch, taught)
    return exit_pass(batch.student, batch.decoding, last_tokens(batch), taught.deciding, taught.reading)


@torch.inference_mode()
def first_tokens(batch: Batch, slots: np.ndarray, prefilled: Prefilled) -> None:
    """Give new rows their first token, from the final layer of their prompt's pass: no exit is drawn for it."""
    decoder, decoding = batch.decoders.teacher, batch.decoding
    final, n_rows = len(decoding.exitable_layers), len(slots)
    prefix_B = torch.zeros(n_rows, dtype=torch.long, device=decoder.device)
    reading, hidden_BW = prefilled.reading.of(prefix_B), prefilled.states_1XW[prefix_B, -1]
    if decoding.temperature > 0:
        [u_token_B] = to_device([batch.u_token[slots, 0]], decoder.device)
        rows = [(decoder.n_layers - 1, torch.arange(n_rows, device=decoder.device))]
        picked = read_tokens(decoder, decoding, hidden_BW, rows, u_token_B)
    else:
        picked = reading.picked(torch.full_like(prefix_B, -1))
    prob_BX = torch.zeros(n_rows, final + 1, device=decoder.device)
    prob_BX[:, -1] = 1
    unseen_BE = torch.full_like(prob_BX[:, :-1], torch.nan)
    record(batch, slots, ExitsTaken(np.full(n_rows, final), prob_BX, unseen_BE, hidden_BW, picked), reading)


@record_function("records")
def record(batch: Batch, slots: np.ndarray, taken: ExitsTaken, reading: Reading | None = None) -> None:
    """Write the columns that `trace.Trace` declares: what full depth says later, where there is no `reading` yet."""
    columns = {
        "token_id_T": taken.picked.token_B,
        "exit_prob_TX": taken.prob_DX,
        "evidence_TE": taken.evidence_DE,
        **taken.picked.columns(),
        **(reading.columns(taken.picked.token_B, batch.decoding.observe) if reading else {}),
    }
    batch.record(slots, {"exit_layer_T": batch.layers.exits[taken.exit_D], **to_host(columns)})
