"""Custom rules and modes, in a file as a user writes it."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
import eexit


@eexit.rule(parameter="probability", higher_exits_later=True)
def sure(layer, parameter):
    """exits where `confidence` does"""
    return layer.top_p[:, 0] >= parameter


@eexit.rule(parameter="ratio of the two highest probabilities", least=1)
def ratio(layer):
    """exits at a layer whose likeliest token is so many times as probable as the next"""
    return layer.top_p[:, 0] / layer.top_p[:, 1]


@eexit.rule(parameter="sharpness", needs="logits", draws=True)
def by_chance(layer, parameter):
    """exits with a chance that grows with the gap between the two highest logits"""
    highest = layer.logits.float().topk(2).values
    return 1 - (-parameter * (highest[:, 0] - highest[:, 1])).exp()


@eexit.rule(parameter="norm", needs="stream", at_most=True)
def still(layer):
    """exits at a layer that changes the stream little"""
    return (layer.after - layer.before).norm(dim=-1) / layer.before.norm(dim=-1)


@eexit.rule(needs="history")
def settled(layer):
    """exits where the likeliest token is that of the exitable layer before"""
    said = layer.likeliest_so_far
    return (said[:, -1] == said[:, -2]) if said.shape[1] > 1 else (said[:, -1] < 0)


@eexit.rule(parameter="nats", needs="final", at_most=True)
def near(layer):
    """exits at a layer whose distribution is near the final one"""
    return layer.kl


@eexit.state
def as_it_was(exit, layer):
    """deeper layers make keys and values of the stream at the exit, as in `frozen_residual`"""
    return exit.stream


@eexit.state(leaves="keys")
def keys_as_they_were(exit, layer):
    """the same, by the layers' own projections"""
    return layer.key(layer.given), layer.value(layer.given)


@eexit.state(needs=("before", "embedding"))
def between(exit, layer):
    """deeper layers make keys and values of a mean of streams, the exit's weighing less the deeper they are"""
    share = (1.0 / (layer.index - exit.layer + 1)).to(exit.stream.dtype)[:, None]
    return share * exit.stream + (1 - share) * (exit.before + exit.embedding) / 2


@eexit.state(leaves="nothing")
def gone(exit, layer):
    """later tokens do not attend to its position past the exit, as in `skip`"""
