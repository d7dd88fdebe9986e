"""Custom rules and modes, in a file as a user writes it."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
import eexit


@eexit.rule(parameter="probability", higher_exits_later=True)
def sure(layer, parameter):
    """exits where `confidence` does"""
    return layer.top2_prob[:, 0] >= parameter


@eexit.rule(parameter="ratio of the two highest probabilities", least=1)
def ratio(layer):
    """exits at a layer whose likeliest token is so many times as probable as the next"""
    return layer.top2_prob[:, 0] / layer.top2_prob[:, 1]


@eexit.rule(parameter="sharpness", needs="logits", draws=True)
def by_chance(layer, parameter):
    """exits with a chance that grows with the gap between the two highest logits"""
    highest = layer.logits.float().topk(2).values
    return 1 - (-parameter * (highest[:, 0] - highest[:, 1])).exp()


@eexit.rule(parameter="norm", needs="hidden", at_most=True)
def still(layer):
    """exits at a layer that changes the stream little"""
    return (layer.hidden_out - layer.hidden_in).norm(dim=-1) / layer.hidden_in.norm(dim=-1)


@eexit.rule(needs="history")
def settled(layer):
    """exits where the likeliest token is that of the exitable layer before"""
    said = layer.top_token_history
    return (said[:, -1] == said[:, -2]) if said.shape[1] > 1 else (said[:, -1] < 0)


@eexit.rule(parameter="nats", needs="history")
def fell(layer):
    """exits at a layer whose entropy is so much lower than at the exitable layer before"""
    entropy = layer.entropy_history
    return entropy[:, -2] - entropy[:, -1] if entropy.shape[1] > 1 else 0 * entropy[:, 0]


@eexit.rule(parameter="weighted sum", needs=["hidden_history", "history", "logits"], at_most=True)
def still_since(layer):
    """exits where hidden state, top probability and top logit are near the means over the exitable layers so far"""
    moved = (layer.hidden_history - layer.hidden_history.mean(1, keepdim=True))[:, -1].norm(dim=-1)
    surer = layer.top2_prob_history[:, -1, 0] - layer.top2_prob_history[:, :, 0].mean(1)
    return moved / layer.hidden_out.norm(dim=-1) + surer + layer.logits.float().amax(-1) / 100


@eexit.rule(parameter="nats", needs=["final"], at_most=True)
def settled_for_good(layer):
    """exits at a layer whose distribution has at most this Jensen-Shannon divergence from the final one"""
    return layer.jsd


@eexit.rule(parameter="nats", needs="final", at_most=True)
def near(layer):
    """exits at a layer whose distribution is near the final one"""
    return layer.kl


@eexit.mode(needs="embedding")
def from_scratch(exit, layer):
    """deeper layers make keys and values of the embedding"""
    return exit.embedding


@eexit.mode
def as_it_was(exit, layer):
    """deeper layers make keys and values of the stream at the exit, as in `frozen_residual`"""
    return exit.hidden


@eexit.mode(fill="kv")
def keys_as_they_were(exit, layer):
    """the same, by the layers' own projections"""
    return layer.key(layer.kv_input), layer.value(layer.kv_input)


@eexit.mode(needs=("hidden_in", "embedding"))
def between(exit, layer):
    """deeper layers make keys and values of a mean of streams, the exit's weighing less the deeper they are"""
    share = (1.0 / (layer.index - exit.layer + 1)).to(exit.hidden.dtype)[:, None]
    return share * exit.hidden + (1 - share) * (exit.hidden_in + exit.embedding) / 2


@eexit.mode(fill="none")
def gone(exit, layer):
    """later tokens do not attend to its position past the exit, as in `skip`"""
