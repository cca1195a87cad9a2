"""Whatever comes over the network or out of an archive."""
