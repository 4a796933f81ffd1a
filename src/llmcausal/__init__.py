"""Fine-tune language models to resist prompt injection on one small GPU."""

from llmcausal.serving import render_prompt

__all__ = ["render_prompt"]

__version__ = "0.1.0"
