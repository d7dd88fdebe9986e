"""Colours of exit layers by rank, from blue for the first exitable layer to red for the final layer."""

from typing import Final

# Neighbours are distinguishable with the common colour-vision deficiencies. The last colour is the final layer's.
STOPS: Final = ("#2c4fa3", "#5b9bd0", "#a6d8e8", "#fcc75f", "#f07f3c", "#b3122b")


def exit_colours(n_ranks: int) -> list[str]:
    """Return `n_ranks` colours, interpolated between the stops; the last is the final layer's."""
    if n_ranks == 1:
        return [STOPS[-1]]
    return [_at(rank / (n_ranks - 1)) for rank in range(n_ranks)]


def ink_on(colour: str) -> str:
    """Return black or white, whichever contrasts better with the colour: at least 4.58:1."""
    return "#000000" if contrast(colour, "#000000") >= contrast(colour, "#ffffff") else "#ffffff"


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of WCAG 2, from 1 to 21."""
    bright, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _at(share: float) -> str:
    position = share * (len(STOPS) - 1)
    left = min(int(position), len(STOPS) - 2)
    start, end = _channels(STOPS[left]), _channels(STOPS[left + 1])
    mixed = (round(a + (b - a) * (position - left)) for a, b in zip(start, end, strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def _channels(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def _luminance(colour: str) -> float:
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in _channels(colour)))
    return sum(weight * channel for weight, channel in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
