"""The loop of oracles whose student has weights of its own, so that the teacher's pass is no part of the student's.

Each step, the teacher first runs every row's last token at full depth, and the oracle says where it exits. The student
then runs it up to there, as in the loop of online rules.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.profiler import record_function

from eexit.decode.exit_pass import Deciding, Known
from eexit.decode.layer_reading import Reading
from eexit.decode.rows.decoders import Decoders
from eexit.decode.rows.requests import Decoding, Outcome
from eexit.decode.rows.transfer import to_device
from eexit.decode.steps.online import OnlineBatch, exit_step, now_deciding, record_reading
from eexit.decode.steps.oracle import decide
from eexit.decode.teacher import read_texts
from eexit.decode.trace import Trace


class OracleBatch(OnlineBatch):
    """Slots for rows of oracles, and their caches: the student's and the teacher's."""

    def outcome(self, slot: int) -> Outcome:
        """As in any slot; what was run is not told, since oracles need the teacher's pass on top."""
        outcome = super().outcome(slot)
        return replace(outcome, counts=None) if isinstance(outcome, Trace) else outcome


@torch.inference_mode()
def oracle_step(decoders: Decoders, decoding: Decoding, batch: OracleBatch) -> None:
    """Give every row in flight its next token."""
    slots, input_index = np.arange(batch.n_rows), batch.n_generated[: batch.n_rows] - 1
    with record_function("teacher"):
        last_token = batch.last_token().astype(np.int64)
        reading = read_texts(
            decoders.teacher, decoding, batch.layers, batch.teacher, slots, batch.position(), last_token
        )
    deciding = now_deciding(batch, decoders.student.device)
    exit_step(decoders.student, decoding, batch, deciding, oracle_exits(batch.rules, reading, deciding))
    record_reading(batch, slots, input_index, reading)
    batch.n_observed[slots] += 1


def oracle_exits(rules: Sequence[str], reading: Reading, deciding: Deciding) -> Known:
    """The exits of tokens whose rules are all oracles, from the teacher's reading."""
    [rule_D] = to_device([deciding.rule_D], reading.kl_BE.device)
    decision = decide(rules, reading, rule_D, deciding.setting_DE, deciding.u_exit_D)
    return Known(decision.exit_B.cpu().numpy(), decision.prob_BX, decision.evidence_BE)
