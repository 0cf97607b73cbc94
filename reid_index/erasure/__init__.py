"""What must be gone, and looking for it."""
