"""One step of all rows in flight: each gets its next token, read at the layer that it leaves after.

Shapes: B rows, F of them with a student of their own, X exitable layers and then the final one.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from eexit.cpu.chosen import Chosen
from eexit.decode.batch import Batch, Tell
from eexit.decode.exit_pass import Deciding, Decision, ExitPass, decide, exit_pass
from eexit.decode.reading import Picked, Reader, read_tokens
from eexit.decode.requests import Decoders, Decoding, Request
from eexit.decode.student import Leaving
from eexit.decode.teacher import Prefilled, Prefixes, Taught, observe
from eexit.method.states import STATES, alters
from eexit.model.layers import Inputs

OfRows = TypeVar("OfRows", Inputs, Deciding, Decision)


class OnlineBatch(Batch):
    """Rows whose rules look at what has been run, at nothing, or never exit: what full depth says is found later."""

    @torch.inference_mode()
    def step(self) -> None:
        # 1. The rows' latest tokens go through the layers together. At each exitable layer that a rule looks at, tokens
        #    may leave; past their exits, their modes say what deeper layers hold. Where all have left, layers are left
        #    out. The next token of each row is read where it left.
        inputs, deciding = self.inputs(), self.deciding()
        leaving = Leaving.of(self.student, self.rows, self.rows.n_rows)
        taken = exit_pass(leaving, self.decoding, inputs, deciding, decide(deciding))
        # 2. It is recorded, and is the row's latest token from now on.
        with record_function("records"):
            self.record(taken.columns(self.student.layer_X))

    def observe(self, slots: np.ndarray, observed: Tell) -> None:
        if self.decoding.n_observed:
            observe(self.rows, self.decoders, self.student.cache, slots, observed)


class OracleBatch(Batch):
    """Rows beside a teacher, the full-depth pass that oracles look at: their exits are known before they run.

    Where student and teacher are one decoder, rows whose mode leaves the state as it is have no student.
    """

    def __init__(self, n_slots: int, length: int, decoders: Decoders, decoding: Decoding, requests: Sequence[Request]):
        super().__init__(n_slots, length, decoders, decoding, requests)
        self.teacher = Prefixes(decoders.teacher, decoding, n_slots, length)
        self.caches.append(self.teacher.cache)

    @torch.inference_mode()
    def step(self) -> None:
        # 1. The teacher takes the rows' latest tokens through all layers, and every exitable layer is read.
        inputs, deciding = self.inputs(), self.deciding()
        taught = self.teacher.teach(self.rows)
        # 2. The rules say where each leaves.
        decision = decide(deciding, taught.reading)
        # 3. Students run, with what exits leave behind. Tokens are read from them, or from the teacher.
        picked = self._picked(deciding, decision, taught)
        if self.n_students:
            with record_function("student"):
                picked.put_first(self._students(self.n_students, inputs, deciding, decision))
        # 4. Everything is recorded.
        with record_function("records"):
            columns = picked.columns() | taught.reading.columns(picked.token_B, self.decoding.observe)
            columns |= {"exit_prob_TX": decision.prob_DX, "evidence_TE": decision.evidence_DE}
            self.record(columns | {"exit_layer_T": self.student.layer_X[decision.exit_D]})

    def observe(self, slots: np.ndarray, observed: Tell) -> None:
        """Record nothing: the teacher was read at each step."""

    def _picked(self, deciding: Deciding, decision: Decision, taught: Taught) -> Picked:
        """Return the next tokens of rows without a student: what the teacher says where they leave."""
        if self.decoding.temperature == 0:
            return taught.reading.picked(decision.exit_D)
        reader, states_BXW = Reader(self.decoders.teacher, self.decoding.readout), taught.states_BXW
        ready_BH = reader.ready(states_BXW[:, -1], reader.final)
        for rank, layer in enumerate(self.decoding.exitable_layers):
            leaves = Chosen.of(decision.exit_D == rank)
            if not leaves.are_none:
                leaves.put(ready_BH, reader.ready(states_BXW[leaves.rows, rank], layer))
        return read_tokens(self.decoders.teacher, self.decoding, ready_BH, deciding.u_token_D)

    def _students(self, n_rows: int, inputs: Inputs, deciding: Deciding, decision: Decision) -> Picked:
        """Run the students of the first so many rows up to their exits, and read their next tokens there."""
        inputs, known = _first(n_rows, inputs), _first(n_rows, decision)
        deciding = replace(_first(n_rows, deciding), is_everywhere=True)
        visit = ExitPass(Leaving.of(self.student, self.rows, n_rows), self.decoding, deciding, known, (n_rows, 1))
        return visit.finish(self.student.run(visit, inputs)).picked

    def has_student(self, request: Request) -> bool:
        mode = request.configuration.mode
        return not self.decoders.are_one or (mode in STATES and alters(STATES[mode]))

    def _load(self, prefilled: Prefilled, slots: np.ndarray, prompt_N: np.ndarray) -> None:
        super()._load(prefilled, slots, prompt_N)
        self.teacher.begin(self.rows, prefilled.teacher, slots, prompt_N)


def _first(n_rows: int, of_rows: OfRows) -> OfRows:
    """Return a record of tensors by row, of the first rows alone."""
    parts: dict[str, Any] = {field.name: getattr(of_rows, field.name) for field in fields(of_rows)}
    parts |= {name: part[:n_rows] for name, part in parts.items() if isinstance(part, Tensor)}
    return replace(of_rows, **parts)
