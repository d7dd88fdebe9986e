"""State maps: linear maps of the stream at an exit to what deeper layers would have held, in closed form."""
