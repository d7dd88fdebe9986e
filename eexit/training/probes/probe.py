"""`probe`: what a layer's residual stream says about log KL(final ‖ layer), for the rule `predicted_kl`.

A first pass over the texts finds the KLs, which are kept, and the sums that ridge regression needs. Further passes
train an MLP with one hidden layer per exitable layer, and stop early: kept is what was best on the training texts that
choose. On these texts, both kinds are calibrated in the end, and each layer keeps the kind whose chances to stop are
better.

Shapes: N tokens, E exitable layers, K KL factors, X = E + 1 with the final layer last, W width of the residual stream,
M hidden units.
"""

import copy
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eexit.method.probes import LayerProbe, Probe
from eexit.training.probes.calibration import calibrate
from eexit.training.probes.tables import Predicted, probe_tables
from eexit.training.ridge import Sums, best_fit
from eexit.training.setup import KL_FACTORS, Setup
from eexit.training.streams import BLOCK_TOKENS, compare, decided_streams, streams
from eexit.training.texts import Text, blocks, n_tokens, parted
from eexit.training.trainer import Tables, Trainer

WEIGHT_DECAY: Final = 0.1
EPOCHS_PER_BLOCK: Final = 2  # since streams take longer to compute than to learn from
MLPS: Final = ("mlps", "best")  # attributes
LEAST_KL: Final = 1e-4  # nats: below, an exit is as good as certain at any sensible k, and the logarithm says little
HIDDEN: Final = 128
DROPPED: Final = 0.3  # of inputs and hidden units while learning


class LayerMLPs(nn.Module):
    """Predict a number per layer from the layer's stream: standardised, one hidden layer of GELUs, and back."""

    mean_EW: Tensor
    std_EW: Tensor
    target_mean_E: Tensor
    target_std_E: Tensor

    def __init__(self, n_layers: int, width: int, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.hidden_weight_EWM = nn.Parameter(torch.randn(n_layers, width, HIDDEN, generator=generator) / width**0.5)
        self.hidden_bias_EM = nn.Parameter(torch.zeros(n_layers, HIDDEN))
        self.weight_EM = nn.Parameter(torch.randn(n_layers, HIDDEN, generator=generator) / HIDDEN**0.5)
        self.bias_E = nn.Parameter(torch.zeros(n_layers))
        for name, shape in (("mean_EW", (n_layers, width)), ("target_mean_E", (n_layers,))):
            self.register_buffer(name, torch.zeros(shape))
            self.register_buffer(name.replace("mean", "std"), torch.ones(shape))

    @torch.no_grad()
    def standardise(self, mean_EW: Tensor, std_EW: Tensor, target_mean_E: Tensor, target_std_E: Tensor) -> None:
        """Learn from streams and targets with these means and standard deviations."""
        for name, value in list(locals().items()):
            if name != "self":
                getattr(self, name).copy_(value)

    def forward(self, stream_NEW: Tensor, dropping: torch.Generator | None = None) -> Tensor:
        """Standardised predictions, (N, E). To learn, inputs and hidden units are dropped by draws from `dropping`."""
        seen_ENW = _dropped(((stream_NEW.float() - self.mean_EW) / self.std_EW).transpose(0, 1), dropping)
        hidden_ENM = F.gelu(torch.baddbmm(self.hidden_bias_EM[:, None], seen_ENW, self.hidden_weight_EWM))
        hidden_ENM = _dropped(hidden_ENM, dropping)
        return (hidden_ENM * self.weight_EM[:, None]).sum(-1).mT + self.bias_E

    def standardised(self, target_NE: Tensor) -> Tensor:
        return (target_NE - self.target_mean_E) / self.target_std_E

    def layer_probe(self, rank: int) -> LayerProbe:
        """One layer's, which predicts the target itself."""
        std = self.target_std_E[rank]
        return LayerProbe(
            mean=self.mean_EW[rank],
            std=self.std_EW[rank],
            weight=self.weight_EM[rank].detach() * std,
            bias=self.bias_E[rank].detach() * std + self.target_mean_E[rank],
            hidden_weight=self.hidden_weight_EWM[rank].detach(),
            hidden_bias=self.hidden_bias_EM[rank].detach(),
        )


def _dropped(value: Tensor, dropping: torch.Generator | None) -> Tensor:
    """Dropout (Srivastava et al. 2014), with draws that are passed in so that a training goes on with the same ones."""
    if dropping is None:
        return value
    kept = torch.rand(value.shape, generator=dropping, device=dropping.device) >= DROPPED
    return value * kept.to(value.device) / (1 - DROPPED)


def log_kl(kl: Tensor) -> Tensor:
    """What probes predict."""
    return kl.clamp_min(LEAST_KL).log()


class ProbeTrainer(Trainer):
    """Trains the probes of all exitable layers side by side."""

    optimiser: torch.optim.AdamW
    own = ("log_kl_NE", "least_E")

    def __init__(self, setup: Setup):
        super().__init__(setup)
        options, self.readout = setup.options, setup.readout
        assert options.passes
        assert options.learning_rate
        self.passes = options.passes + 1
        ends = accumulate((len(text.token_ids) for text in setup.texts), initial=0)
        self.starts = dict(zip(setup.texts, ends, strict=False))  # of each text's tokens, where the one before ends
        self.log_kl_NE = torch.zeros(self.per_pass, len(self.layers))  # of all texts, in their order
        self.mlps = LayerMLPs(len(self.layers), self.decoder.width, options.seed).to(self.decoder.device)
        self.optimiser = torch.optim.AdamW(self.mlps.parameters(), options.learning_rate, weight_decay=WEIGHT_DECAY)
        self.best = copy.deepcopy(self.mlps)
        self.least_E = torch.full((len(self.layers),), torch.inf)
        self.fitted: dict[str, dict[int, LayerProbe]] = {}  # by kind, then by layer
        self.kinds: dict[int, str] = {}  # that layers keep

    def train(self, block: Sequence[Text]) -> float | None:
        measuring = self.seen < self.per_pass
        loss = None
        if measuring:
            self._measure(block)
        else:
            loss = self._learn(block)
        self.seen += n_tokens(block)
        if self.seen % self.per_pass == 0:
            if measuring:
                self._standardise()
            else:
                self._keep_best()
        return loss

    def _measure(self, block: Sequence[Text]) -> None:
        """Find the KLs of these texts, and add to the sums."""
        for chooses, texts in parted(block):
            states_NXW = streams(self.decoder, texts, self.layers)
            log_kl_NE = log_kl(compare(self.decoder, self.readout, self.layers, states_NXW).kl_BE)
            for text, text_NE in zip(texts, log_kl_NE.split([len(text.token_ids) for text in texts]), strict=True):
                self.log_kl_NE[self.starts[text] : self.starts[text] + len(text_NE)] = text_NE
            for rank, layer in enumerate(self.layers):
                self.sums.add(layer, chooses, Sums.of(states_NXW[:, rank], log_kl_NE[:, rank, None]))

    def _standardise(self) -> None:
        of_layers = [self.sums.of(layer)[0] for layer in self.layers]
        mean_EW, std_EW = (torch.stack([getattr(sums, name) for sums in of_layers]) for name in ("mean_D", "std_D"))
        target_std_E, target_mean_E = torch.std_mean(self.log_kl_NE, 0)
        self.mlps.standardise(mean_EW, std_EW, target_mean_E, target_std_E)
        self.best = copy.deepcopy(self.mlps)

    def _learn(self, block: Sequence[Text]) -> float | None:
        """Train the MLPs; the mean squared error of log KL."""
        texts = [text for text in block if not text.chooses]
        if not texts:
            return None
        stream_NEW, target_NE = streams(self.decoder, texts, self.layers)[:, :-1], self._targets(texts)
        generator = torch.Generator().manual_seed(hash((self.options.seed, self.seen)))
        losses = []
        for _ in range(EPOCHS_PER_BLOCK):
            order_N = torch.randperm(len(target_NE), generator=generator).to(target_NE.device)
            for step_N in order_N.split(self.options.tokens_per_step or len(order_N)):
                losses.append(self._step(stream_NEW[step_N], target_NE[step_N], generator))
        return sum(losses) / len(losses)

    def _step(self, stream_NEW: Tensor, target_NE: Tensor, dropping: torch.Generator) -> float:
        assert self.options.learning_rate
        done = (self.seen - self.per_pass) / (self.per_pass * (self.passes - 1))
        for group in self.optimiser.param_groups:
            group["lr"] = self.options.learning_rate * (1 - done)
        error_E = (self.mlps(stream_NEW, dropping) - self.mlps.standardised(target_NE)).square().mean(0)
        error_E.sum().backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        return float((error_E.detach() * self.mlps.target_std_E.square()).mean())

    def _targets(self, texts: Sequence[Text]) -> Tensor:
        """The true log KLs of all tokens of these texts, (N, E)."""
        parts = [self.log_kl_NE[self.starts[text] :][: len(text.token_ids)] for text in texts]
        return torch.cat(parts).to(self.decoder.device)

    @torch.no_grad()
    def _keep_best(self) -> None:
        """Keep each layer's MLP if it is better than before on the texts that choose."""
        mlps = [self.mlps.layer_probe(rank) for rank in range(len(self.layers))]
        seen_NE, true_NE = self._on_those_that_choose(mlps)
        error_E = (seen_NE - true_NE).square().mean(0)
        better_E = error_E < self.least_E
        self.least_E = torch.where(better_E, error_E, self.least_E)
        for trained, kept in zip(self.mlps.parameters(), self.best.parameters(), strict=True):
            kept[better_E] = trained[better_E]

    @torch.no_grad()
    def _on_those_that_choose(self, probes: Sequence[LayerProbe]) -> tuple[Tensor, Tensor]:
        """What these probes, one per layer, predict of the texts that choose, and the true log KLs; both (N, E)."""
        seen, true = [], []
        for block in blocks([text for text in self.texts if text.chooses], BLOCK_TOKENS):
            states_NXW = streams(self.decoder, block, self.layers)
            seen.append(torch.stack([probe.log_kl(states_NXW[:, rank]) for rank, probe in enumerate(probes)], 1).cpu())
            true.append(self._targets(block).cpu())
        return torch.cat(seen), torch.cat(true)

    def state(self) -> dict[str, Tensor]:
        mlps = {f"{name}.{key}": part for name in MLPS for key, part in getattr(self, name).state_dict().items()}
        return super().state() | mlps

    def restore(self, state: Mapping[str, Tensor]) -> None:
        super().restore(state)
        for name in MLPS:
            parts = {key.removeprefix(f"{name}."): part for key, part in state.items() if key.startswith(f"{name}.")}
            getattr(self, name).load_state_dict(parts)

    def finish(self) -> None:
        """Fit the linear probes, calibrate both kinds, and choose one for each layer."""
        linear = [linear_probe(*self.sums.of(layer), refit=False) for layer in self.layers]
        mlps = [self.best.layer_probe(rank) for rank in range(len(self.layers))]
        losses = {}
        for kind, probes in (("linear", linear), ("mlp", mlps)):
            seen_NE, true_NE = self._on_those_that_choose(probes)
            found = [calibrate(*pair) for pair in zip(seen_NE.unbind(1), true_NE.exp().unbind(1), strict=True)]
            each = zip(self.layers, probes, found, strict=True)
            self.fitted[kind] = {layer: calibration.of(probe) for layer, probe, calibration in each}
            losses[kind] = [calibration.loss for calibration in found]
        pairs = zip(losses["linear"], losses["mlp"], strict=True)
        self.kinds = {
            layer: "mlp" if mlp < linear else "linear" for layer, (linear, mlp) in zip(self.layers, pairs, strict=True)
        }

    def weights(self) -> dict[str, Tensor]:
        kept = {layer: self.fitted[kind][layer] for layer, kind in self.kinds.items()}
        return Probe(kept).tensors()

    def held_out_loss(self, texts: Sequence[Text]) -> float | None:
        """The mean squared error of the MLPs' log KL, once they have learned something."""
        if self.seen <= self.per_pass:
            return None
        mlps = {layer: self.mlps.layer_probe(rank) for rank, layer in enumerate(self.layers)}
        found = self._predict({"mlp": mlps}, texts)
        return (found.log_kl_NEK["mlp"][..., 0] - log_kl(found.true.kl_BE)).square().mean().item()

    def tables(self, texts: Sequence[Text]) -> Tables:
        found = self._predict(self.fitted, texts)
        name = type(self.readout).__name__.lower()
        return probe_tables(name, self.layers, self.decoder.n_layers, found, list(self.kinds.values()))

    @torch.inference_mode()
    def _predict(self, probes: Mapping[str, Mapping[int, LayerProbe]], texts: Sequence[Text]) -> Predicted:
        parts = []
        for states_NXW in decided_streams(self.decoder, texts, self.layers):
            predicted = {
                kind: torch.stack(
                    [_at_factors(of_layer[layer], states_NXW[:, i]) for i, layer in enumerate(self.layers)], 1
                )
                for kind, of_layer in probes.items()
            }
            parts.append(Predicted(compare(self.decoder, self.readout, self.layers, states_NXW), predicted))
        return Predicted.joined(parts)


def _at_factors(probe: LayerProbe, stream_NW: Tensor) -> Tensor:
    """The log KLs that a probe predicts at each of `KL_FACTORS`, (N, K); on the CPU."""
    factors = [torch.full((len(stream_NW),), factor, device=stream_NW.device) for factor in KL_FACTORS]
    return torch.stack([probe.log_kl_at(stream_NW, factor_N) for factor_N in factors], 1).cpu()


def linear_probe(learn: Sums, choose: Sums, refit: bool = True) -> LayerProbe:
    """The ridge regression of log KL on a layer's stream, in terms of the standardised stream; fp32."""
    map_J1 = best_fit(learn, choose, [torch.zeros_like(learn.both_JH[1:])], refit)
    bias, weight_W = map_J1[0, 0] + learn.mean_D @ map_J1[1:, 0], map_J1[1:, 0] * learn.std_D
    return LayerProbe(*[part.float() for part in (learn.mean_D, learn.std_D, weight_W, bias)])
