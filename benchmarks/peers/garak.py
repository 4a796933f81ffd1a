"""A garak run over given prompts; run by `benchmarks.eval`.

    python -m benchmarks.peers.garak MODEL PAIRS.json MAX_NEW_TOKENS ROUNDS

Needs garak, and nothing of this project. garak's own `huggingface.Model` answers greedily in fp32;
a probe with the given system and user texts sends them, one answer each, as its probes do.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from pathlib import Path


def main(model: str, pairs: str, max_new_tokens: str, rounds: str) -> None:
    from garak import _config
    from garak.attempt import Conversation, Message, Turn
    from garak.generators.huggingface import Model
    from garak.probes.base import Probe

    _config.load_base_config()
    _config.run.generations = 1
    _config.transient.reportfile = io.StringIO()
    answering = {
        "max_tokens": int(max_new_tokens),
        "hf_args": {"torch_dtype": "float32", "do_sample": False, "device": "cpu"},
    }

    class Given(Probe):
        """Sends the given prompts."""

        lang = "en"
        prompts = tuple(
            Conversation([Turn("system", Message(system)), Turn("user", Message(user))])
            for system, user in json.loads(Path(pairs).read_text(encoding="utf-8"))
        )

    with contextlib.redirect_stdout(sys.stderr):
        generator = Model(model, {"generators": {"huggingface": {"Model": answering}}})
        probe, seconds, texts = Given(), [], []
        for _ in range(int(rounds)):
            started = time.perf_counter()
            attempts = probe.probe(generator)
            seconds.append(time.perf_counter() - started)
            texts = [attempt.outputs[0].text.strip() for attempt in attempts]
    print(json.dumps({"seconds": seconds, "texts": texts}))


if __name__ == "__main__":
    main(*sys.argv[1:])
