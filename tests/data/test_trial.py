"""Work that does not end, or fills the memory, ends with a message."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from transformers import PreTrainedTokenizerFast

from llmcausal.data import template as template_module
from llmcausal.data.spans import Span
from llmcausal.data.template import ChatTemplate, broken_limit
from llmcausal.errors import DataError, ModelError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks under limits on Linux alone")

BOMBS = {
    "a loop": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "doubling": "{% set n = namespace(a='a') %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}"
    "{% endfor %}",
    "multiplying": "{{ 'a' * 10**11 }}",
    "padding": "{{ '%99999999999d' % 1 }}",
}


def test_work_that_ends_is_fine_and_leaves_no_process(tmp_path: Path) -> None:
    before = set(psutil.Process().children())  # other tests' may live longer; none may be added
    assert broken_limit((tmp_path / "done").touch) == ""
    assert (tmp_path / "done").exists()
    assert broken_limit(lambda: 1 / 0) == ""
    assert set(psutil.Process().children()) <= before


def test_each_limit_is_named() -> None:
    started = time.monotonic()
    assert broken_limit(lambda: time.sleep(60), seconds=0.2) == "more than 0.2 seconds"
    assert time.monotonic() - started < 10
    assert broken_limit(lambda: bytearray(2**30), extra_bytes=2**28) == "more than 256 MiB"


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_template_that_never_ends_is_refused(
    bomb: str, build_tokenizer: Callable[[str], PreTrainedTokenizerFast],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tokenizer = build_tokenizer("chatml")
    monkeypatch.setattr(
        template_module, "broken_limit", lambda work: broken_limit(work, seconds=1.5)
    )
    with pytest.raises(ModelError, match=r"the chat template (takes more than|fails: )"):
        ChatTemplate(tokenizer, str(tokenizer.chat_template) + BOMBS[bomb])


@pytest.mark.parametrize("length", [3, 5])
def test_a_template_that_never_ends_on_spans_is_refused(
    length: int,
    build_tokenizer: Callable[[str], PreTrainedTokenizerFast],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the search for the role of untrusted text, or in one order of spans."""
    monkeypatch.setattr(
        template_module, "broken_limit", lambda work: broken_limit(work, seconds=0.5)
    )
    tokenizer = build_tokenizer("chatml")
    bomb = f"{{% if messages | length == {length} %}}{BOMBS['a loop']}{{% endif %}}"
    ends = "{% if messages[-1].role != 'assistant' %}" + bomb + "{% endif %}"
    template = ChatTemplate(tokenizer, str(tokenizer.chat_template) + ends)
    asked, result = Span("a", trusted=True), Span("b", "tool")
    assert template.encode_prompt("s", "text")
    if length == 5:
        assert template.encode_prompt("s", (asked, result))
    with pytest.raises((ModelError, DataError), match=r"takes more than|order system, user, tool"):
        template.encode_prompt("s", (asked, result, asked, result))


PIECES = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(10**12) %}{% endfor %}",
        "".join("{% for i in [1] %}" for _ in range(30)) + "{% endfor %}" * 30,
        "{{ " + "(" * 3000 + ")" * 3000 + " }}",
        "{{ messages.__class__.__mro__ }}{{ ''.__class__.__subclasses__() }}",
        PIECES + "{{ '\\ud800' }}",
    ],
    ids=["range", "nested blocks", "parentheses", "the classes of Python", "half a character"],
)
def test_a_template_that_breaks_jinja_is_explained(
    text: str, build_tokenizer: Callable[[str], PreTrainedTokenizerFast]
) -> None:
    with pytest.raises(ModelError, match="the chat template"):
        ChatTemplate(build_tokenizer("chatml"), text)


def test_a_template_is_tried_once(
    build_tokenizer: Callable[[str], PreTrainedTokenizerFast], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[object] = []

    def counted(work: Callable[[], object]) -> str:
        tries.append(work)
        return ""

    monkeypatch.setattr(template_module, "broken_limit", counted)
    monkeypatch.setattr(template_module, "_BOUNDED", set())
    for _ in range(2):
        ChatTemplate(build_tokenizer("chatml"))
    assert len(tries) == 1
