"""Fine-tune language models to resist prompt injection on one small GPU."""

__version__ = "0.1.0"
