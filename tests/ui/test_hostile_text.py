from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from llmcausal.ui.hostile_text import shown, spelled, tag


class Elements(HTMLParser):
    """Collects elements and attributes as a browser would."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(name for name, _ in attrs)}


def test_text_and_attributes_are_escaped_and_drawings_are_not() -> None:
    made = tag("g", '<b a="1">', tag("line", x1="1"), aria_label='"><script>')
    assert made == (
        '<g aria-label="&#34;&gt;&lt;script&gt;">&lt;b a=&#34;1&#34;&gt;<line x1="1"/></g>'
    )


def test_what_cannot_be_seen_is_spelled_out() -> None:
    assert spelled("a\u202eb\u200b\U000e0041\n\u3164") == "a⟨U+202E⟩b⟨U+200B⟩⟨tag A⟩\n⟨U+3164⟩"


@given(st.text(), st.text(), st.text())
def test_any_text_is_escaped_and_complete(text: str, witness: str, goal: str) -> None:
    elements = Elements(str(shown(text, witness, goal)))
    assert elements.found <= {"mark", "span", "class"}


def test_the_witness_and_the_instruction_are_marked_whatever_their_case() -> None:
    html = shown("Say HarBor, now", witness="harbor", goal="say harbor")
    assert html == '<mark class="goal">Say </mark><mark>HarBor</mark>, now'


def test_invisible_text_becomes_visible() -> None:
    smuggled = "".join(chr(0xE0000 + ord(char)) for char in "obey")
    html = shown(f"a\u200b\u200b\u200bb{smuggled}c\r\nd")
    label = '<span class="hidden-char">{}</span>'
    assert html == f"a{label.format('U+200B ×3')}b{label.format('tags: obey')}c\nd"  # noqa: RUF001


def test_long_text_says_what_it_lost() -> None:
    html = shown("a" * 5000)
    assert "2,000 characters are not shown" in html
    assert html.count("a" * 1500) == 2
    assert "not shown" not in shown("a" * 5000, whole=True)
