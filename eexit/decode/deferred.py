"""Deferred tokens: those that exited while later tokens attend to the full-depth KV cache of the layers they skipped.

Once all tokens of a step have exited, the rest of the layers is deferred for all of them, if any sequence needs it or
tokens before them are deferred. It runs, for many tokens together, with the next step that goes as deep (EE-LLM, Chen
et al. 2023), or before other sequences join. They are neighbours in the KV cache, those of deeper layers first.

Shapes: B sequences, T tokens of each, C columns of the KV cache, F width of a head input, D width of a hidden state.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from eexit.decode.exit_visitor import ExitVisitor
from eexit.decode.groups import ExitPlan
from eexit.decode.predictors import LMHead
from eexit.model.cache import KVCache
from eexit.model.layers import ForwardInputs

DEFERRED_TOKENS: Final = 1024  # of all sequences, run at a time: activations take 15 times their hidden states
BLOCK_TOKENS: Final = 32  # of a sequence, kept in one tensor: a step copies so many at most
OWN: Final = ("hidden", "token", "position", "exit")


@dataclass(frozen=True)
class Block:
    """Deferred tokens that went through the first `layer` layers.

    `parts` are (B, T, …): the hidden states that enter the next layer, token ids (of which arguments of a layer may
    follow, as in Gemma 4), positions, exits as indices into X, and hidden states that modes need.
    """

    layer: int
    parts: Mapping[str, Tensor]

    @classmethod
    def joined(cls, blocks: Sequence["Block"]) -> "Block":
        """Join blocks, which go on from the layer of the last one; a single one is not copied."""
        if len(blocks) == 1:
            return blocks[0]
        names = blocks[-1].parts
        return cls(blocks[-1].layer, {name: torch.cat([each.parts[name] for each in blocks], 1) for name in names})

    @property
    def n_tokens(self) -> int:
        """The number of tokens of each sequence."""
        return self.parts["token"].shape[1]

    @property
    def kept(self) -> dict[str, Tensor]:
        """Hidden states that modes need."""
        return {name: part for name, part in self.parts.items() if name not in OWN}

    def inputs(self, others: ForwardInputs, n_after: int = 0) -> ForwardInputs:
        """Return the tokens as inputs that end so many columns before the end of others."""
        attention_mask_BC = others.attention_mask_BC[:, : others.attention_mask_BC.shape[1] - n_after]
        return ForwardInputs(self.parts["token"], self.parts["position"], attention_mask_BC, others.first_column)


class DeferredTokens:
    """The tokens whose skipped layers run later; passes over the layers go through here.

    If more than `most_tokens` would run together, they run in blocks, and `tell_block` is called after each.
    """

    def __init__(self, head: LMHead, cache: KVCache):
        self.head, self.decoder, self.cache = head, head.decoder, cache
        self.blocks: list[Block] = []  # in the order of their columns, and so those of deeper layers first
        self.most_tokens = float(DEFERRED_TOKENS)
        self.tell_block: Callable[[], None] = lambda: None

    def run(self, visitor: ExitVisitor, inputs: ForwardInputs) -> Tensor:
        """Take tokens through the layers; return what goes into the head after the final one, (B, T, F).

        If the pass goes as deep as tokens are deferred, these come along, and are the first of T. If all tokens have
        exited, they may be deferred.
        """
        first, hidden_BTD = 0, None
        while True:
            head_input_BTF = self._run(visitor, inputs, first, hidden_BTD)
            if visitor.held_BTD is None or visitor.stops_at is None:
                return head_input_BTF
            first, own = visitor.stops_at, {"hidden": visitor.held_BTD, "token": inputs.token_BT}
            block = Block(first, {**own, "position": inputs.position_BT, "exit": visitor.exit_BT, **visitor.kept})
            if visitor.all_exited:
                self._defer(block)
                return head_input_BTF
            waiting = self._take(first)
            if sum(each.parts["token"].numel() for each in waiting) > self.most_tokens:
                ends = [at + 1 for at in visitor.ranks if at >= first] + [each.layer for each in self.blocks[-1:]]
                self._run_blocks(visitor.plan, waiting, inputs, block.n_tokens, min(ends, default=None))
            else:
                older = Block.joined(waiting)
                visitor.join(older.parts["exit"], older.kept)
                block = Block.joined([older, block])
            inputs, hidden_BTD = block.inputs(inputs), block.parts["hidden"]

    def _run(self, visitor: ExitVisitor, inputs: ForwardInputs, first: int, hidden_BTD: Tensor | None) -> Tensor:
        """Run layers up to where tokens are deferred, or all exit."""
        visitor.held_BTD, visitor.stops_at = None, self.blocks[-1].layer if self.blocks else None
        visitor.defers = visitor.plan.defers or bool(self.blocks)
        return self.decoder.run(visitor, inputs, self.cache, first, hidden_BTD)

    def _defer(self, block: Block) -> None:
        """Add tokens behind the others."""
        last = self.blocks[-1] if self.blocks else None
        if last and last.layer == block.layer and last.n_tokens + block.n_tokens <= BLOCK_TOKENS:
            n_tokens = last.parts["token"].numel() + block.parts["token"].numel()
            block = Block.joined([self.blocks.pop(), block]) if n_tokens <= self.most_tokens else block
        self.blocks.append(block)

    def _take(self, layer: int) -> list[Block]:
        """Remove the tokens that are deferred from a layer on, and return them."""
        waiting = [block for block in self.blocks if block.layer == layer]
        self.blocks = [block for block in self.blocks if block.layer != layer]
        return waiting

    def _run_blocks(
        self, plan: ExitPlan, waiting: list[Block], inputs: ForwardInputs, n_after: int, stop: int | None
    ) -> None:
        """Run tokens up to a layer from which on they are deferred; they end so many columns before others end.

        They are removed from the list as they run, so that they are freed.
        """
        n_after += sum(block.n_tokens for block in waiting)
        while waiting:
            together = [waiting.pop(0)]
            while waiting and waiting[0].layer == together[0].layer:
                if sum(each.parts["token"].numel() for each in (*together, waiting[0])) > self.most_tokens:
                    break
                together.append(waiting.pop(0))
            block = Block.joined(together)
            n_after -= block.n_tokens
            visitor = ExitVisitor.of_exited(self.head, plan, block.parts["exit"], block.kept)
            visitor.stops_at = stop
            self.decoder.run(visitor, block.inputs(inputs, n_after), self.cache, block.layer, block.parts["hidden"])
            if stop is not None and visitor.held_BTD is not None:
                self.blocks.append(Block(stop, {**block.parts, "hidden": visitor.held_BTD}))
            self.tell_block()

    def keep(self, rows: Tensor) -> None:
        """Keep the tokens of these sequences alone, in this order."""
        self.blocks = [
            Block(block.layer, {name: part[rows] for name, part in block.parts.items()}) for block in self.blocks
        ]

    def settle(self, plan: ExitPlan, latest: ForwardInputs) -> None:
        """Run all deferred tokens, which end with the columns of the latest ones."""
        waiting, self.blocks = self.blocks, []
        self._run_blocks(plan, waiting, latest, 0, None)
