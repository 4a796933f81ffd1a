"""Llama's decoder layers on a CPU; `door.whole_layers` is the only way in."""
