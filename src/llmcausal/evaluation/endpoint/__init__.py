"""Answers of a model that is deployed, over HTTP."""
