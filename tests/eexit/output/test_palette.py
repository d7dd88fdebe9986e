"""Colours of exits, which texts on them can be read on."""

from eexit.output.palette import STOPS, contrast, exit_colours, ink_on


def test_exit_colours_are_the_palette_and_readable() -> None:
    assert exit_colours(6) == list(STOPS)
    for n in range(1, 20):
        colours = exit_colours(n)
        assert len(set(colours)) == n
        assert colours[-1] == STOPS[-1]
        assert min(contrast(colour, ink_on(colour)) for colour in colours) >= 4.5
