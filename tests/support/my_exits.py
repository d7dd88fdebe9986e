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


@eexit.rule(parameter="nats", needs="final", at_most=True)
def near(layer):
    """exits at a layer whose distribution is near the final one"""
    return layer.kl


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
