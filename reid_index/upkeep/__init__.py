"""Deleting, compacting, rebuilding, verifying: what is done to a whole gallery."""
