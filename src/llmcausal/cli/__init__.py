"""The command line. A new subcommand is one file here plus one line in this table."""

from llmcausal.registry import Table

COMMANDS = Table(
    "subcommand",
    {
        "doctor": "llmcausal.cli.doctor:app",
        "profile-memory": "llmcausal.cli.profile_memory:app",
        "train": "llmcausal.cli.train:train_app",
        "resume": "llmcausal.cli.train:resume_app",
        "eval": "llmcausal.cli.eval:app",
        "report": "llmcausal.cli.report:app",
        "ablate": "llmcausal.cli.ablate:app",
        "export": "llmcausal.cli.export:app",
        "try": "llmcausal.cli.trying:app",
        "serve": "llmcausal.cli.serve:app",
        "monitor": "llmcausal.cli.monitor:app",
        "data": "llmcausal.cli.data:app",
    },
)
