"""Teaching and distilling: optimiser, loop, and what surrounds them."""
