"""Deferred tokens: those whose skipped layers run later, together, since later tokens attend to full depth there.

Once all tokens of a step have exited, the remaining layers are deferred for all sequences, if any of them needs these
layers or has older deferred tokens. They run with the next step that goes as deep (EE-LLM, Chen et al. 2023), or before
other requests join. Deferred tokens are neighbours in the KV cache, those of deeper layers first.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Final

import torch
from torch import Tensor

from eexit.decode.exit_visitor import ExitVisitor
from eexit.decode.groups import ExitPlan
from eexit.decode.predictors import LMHead
from eexit.model.cache import KVCache
from eexit.model.layers import ForwardInputs, VisitedLayer

DEFERRED_TOKENS: Final = 1024  # of all sequences, run at a time: activations take 15 times their hidden states
BLOCK_TOKENS: Final = 32  # of a sequence, kept in one tensor: a step copies so many at most


@dataclass(frozen=True)
class Block:
    """Tokens that went through the first `layer` layers.

    `parts` are (B, T, …): the hidden states before the next layer, token ids (which some layers take too, as in
    Gemma 4), positions, exits as indices into X, and hidden states that modes need.
    """

    layer: int
    parts: Mapping[str, Tensor]

    @property
    def shape(self) -> torch.Size:
        """Numbers of sequences and of tokens of each, (B, T)."""
        return self.parts["token"].shape

    def append(self, other: "Block") -> "Block":
        """Return these tokens followed by other tokens at the same layer."""
        return Block(self.layer, {name: torch.cat([part, other.parts[name]], 1) for name, part in self.parts.items()})


class DeferredTokens:
    """Deferred tokens of an early-exit pass with a KV cache; all its passes go through here.

    If more than `most_tokens` would run together, they run in blocks, and `on_block` is called after each.
    """

    def __init__(self, head: LMHead, cache: KVCache):
        self.head, self.decoder, self.cache = head, head.decoder, cache
        self.blocks: list[Block] = []  # in the order of their columns, and so those of deeper layers first
        self.most_tokens = float(DEFERRED_TOKENS)
        self.on_block: Callable[[], None] = lambda: None

    def run(self, visitor: ExitVisitor, inputs: ForwardInputs) -> Tensor:
        """Run tokens through the layers; return the head inputs after the final layer, (B, T, F).

        Deferred tokens join at the layer from which theirs are deferred, and come first along T. Once all tokens have
        exited, the remaining layers may be deferred for them too.
        """
        latest = Block(0, {"token": inputs.token_BT, "position": inputs.position_BT})
        while True:
            defers = visitor.plan.defers or bool(self.blocks)
            head_input_BTF, stopped = self._run(latest, inputs, visitor, self._next_layer(), defers)
            if stopped is None:
                return head_input_BTF
            latest = Block(stopped.layer, {**stopped.parts, "exit": visitor.exit_BT, **visitor.kept})
            if visitor.all_exited:
                self._defer(latest)
                return head_input_BTF
            older = [block for block in self.blocks if block.layer == latest.layer]
            self.blocks = [block for block in self.blocks if block.layer != latest.layer]
            if sum(block.shape.numel() for block in older) > self.most_tokens:
                exits = [layer + 1 for layer in visitor.ranks if layer >= latest.layer]
                self._run_blocks(visitor.plan, older, inputs, latest.shape[1], min([*exits, self._next_layer()]))
            else:
                joined = reduce(Block.append, older)
                visitor.join(joined.parts)
                latest = joined.append(latest)

    def run_all(self, plan: ExitPlan, latest: ForwardInputs) -> None:
        """Run all deferred tokens, which end in the column of the latest tokens."""
        older, self.blocks = self.blocks, []
        self._run_blocks(plan, older, latest, 0, self.decoder.n_layers)

    def select(self, index_B: Tensor) -> None:
        """Keep the tokens of these sequences alone, in this order."""
        for at, block in enumerate(self.blocks):
            self.blocks[at] = Block(block.layer, {name: part[index_B] for name, part in block.parts.items()})

    def _next_layer(self) -> int:
        """Return the first layer that tokens are deferred from, or the number of layers."""
        return self.blocks[-1].layer if self.blocks else self.decoder.n_layers

    def _run(
        self, block: Block, others: ForwardInputs, visitor: ExitVisitor, stop: int, defers: bool, n_after: int = 0
    ) -> tuple[Tensor, Block | None]:
        """Run tokens up to layer `stop` or, if `defers`, up to the layer at which all have exited.

        The tokens end `n_after` columns before the end of `others`. Return their head inputs, and any deferred block.
        """
        stopped: list[Block] = []

        def visit(layer: VisitedLayer, hidden_BTD: Tensor) -> Tensor:
            if not stopped and (layer.index == stop or (defers and visitor.all_exited)):
                stopped.append(Block(layer.index, {**block.parts, "hidden": hidden_BTD}))
            return hidden_BTD if stopped else visitor(layer, hidden_BTD)

        attention_mask_BC = others.attention_mask_BC[:, : others.attention_mask_BC.shape[1] - n_after]
        parts = block.parts["token"], block.parts["position"], attention_mask_BC
        inputs, hidden_BTD = ForwardInputs(*parts, others.first_column), block.parts.get("hidden")
        head_input_BTF = self.decoder.run(visit, inputs, self.cache, block.layer, hidden_BTD)
        return head_input_BTF, stopped[0] if stopped else None

    def _fits(self, first: Block, second: Block) -> bool:
        """Return True if two blocks can run together: they are at the same layer and small enough."""
        return first.layer == second.layer and first.shape.numel() + second.shape.numel() <= self.most_tokens

    def _defer(self, block: Block) -> None:
        """Defer a block of tokens, behind earlier ones."""
        last = self.blocks[-1] if self.blocks else None
        if last and self._fits(last, block) and last.shape[1] + block.shape[1] <= BLOCK_TOKENS:
            block = self.blocks.pop().append(block)
        self.blocks.append(block)

    def _run_blocks(self, plan: ExitPlan, older: list[Block], inputs: ForwardInputs, n_after: int, stop: int) -> None:
        """Run the `older` deferred tokens, which end `n_after` columns before `inputs` do, up to layer `stop`.

        They are removed from the list as they run, so that their memory is freed.
        """
        plan = plan.with_exits(plan.layer_X[:0], ranks=())
        n_after += sum(block.shape[1] for block in older)
        while older:
            block = older.pop(0)
            while older and self._fits(block, older[0]):
                block = block.append(older.pop(0))
            n_after -= block.shape[1]
            visitor = ExitVisitor(self.head, plan, (block.shape[0], 0))
            visitor.join(block.parts)
            _, stopped = self._run(block, inputs, visitor, stop, False, n_after)
            if stopped:
                self.blocks.append(stopped)
            self.on_block()
