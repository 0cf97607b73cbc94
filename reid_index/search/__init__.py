"""The nearest rows, by vectors and by parts, and the answer that is made of them."""
