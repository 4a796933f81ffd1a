"""A small server over a checkpoint, for trying and testing."""
