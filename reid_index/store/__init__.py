"""What lies on the disk: shards, manifests, and the one writer that adds to them."""
