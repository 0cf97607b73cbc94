"""Training systems on labelled crops."""
