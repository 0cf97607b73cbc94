"""k-reciprocal re-ranking, of all queries together and of one with a kept graph."""
