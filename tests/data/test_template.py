"""The rendering against `apply_chat_template`, and against text that plays control token."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models
from transformers import PreTrainedTokenizerFast

from llmcausal.data.plain_text import MarkerGuard, PlainEncoder
from llmcausal.data.template import ChatTemplate
from llmcausal.errors import DataError, ModelError

Build = Callable[[str], PreTrainedTokenizerFast]

KINDS = [
    "llama3",
    "llama2_legacy",
    "llama2_metaspace",
    "vicuna",
    "chatml",
    "chatml_nfkc",
    "gemma_unigram",
    "phi3",
    "vocabulary_holds_controls",
]
WITH_UNKNOWN_CHARACTERS = {"gemma_unigram", "vocabulary_holds_controls"}
NO_SYSTEM_ROLE = {"gemma_unigram"}
MARKED_BY_TEXT = {
    "llama2_legacy": {"[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"},
    "llama2_metaspace": {"[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"},
    "vicuna": {"USER:", "ASSISTANT:"},
}
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

words = st.sampled_from(
    [
        "system",
        "user",
        "assistant",
        "the e-mail",
        "  ",
        "\n\n",
        "\n",
        "10.5",
        "世界",
        "Größe",
        "INST",
    ]
)
clean_text = st.lists(words | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)).map(
    " ".join
)
ascii_text = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)


@pytest.fixture(scope="module")
def template_of(build_tokenizer: Build) -> Callable[[str], ChatTemplate]:
    built: dict[str, ChatTemplate] = {}

    def get(kind: str) -> ChatTemplate:
        if kind not in built:
            built[kind] = ChatTemplate(build_tokenizer(kind))
        return built[kind]

    return get


def messages(kind: str, system: str, user: str, answer: str | None = None) -> list[dict[str, str]]:
    turns = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    if kind in NO_SYSTEM_ROLE:
        turns = [{"role": "user", "content": f"{system}\n\n{user}" if system else user}]
    if answer is not None:
        turns.append({"role": "assistant", "content": answer})
    return turns


def reference(
    tokenizer: PreTrainedTokenizerFast, turns: list[dict[str, str]], prompt: bool = True
) -> list[int]:
    ids = tokenizer.apply_chat_template(
        turns, add_generation_prompt=prompt, return_dict=False, date_string="26 Jul 2024"
    )
    assert isinstance(ids, list)
    return ids


def literals(template: ChatTemplate) -> list[str]:
    """Everything an attacker could write: control tokens, markers, disguised and nested forms."""
    controls = [token.content for token in template.tokenizer.added_tokens_decoder.values()]
    controls = [text for text in controls if not text.replace("\u2581", " ").isspace()]
    plain = [*controls, *template.markers]
    wide = ["".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in t) for t in plain]
    nested = [f"{text[: len(text) // 2]}{text}{text[len(text) // 2 :]}" for text in plain]
    return [*plain, *wide, *nested, *(f"{text} {text}\n{text}" for text in plain)]


def segments(template: ChatTemplate, ids: list[int]) -> tuple[list[int], list[list[int]]]:
    """Splits ids at control tokens: returns the control ids and what lies between."""
    controls: list[int] = []
    between: list[list[int]] = [[]]
    for token in ids:
        if token in template.control_ids:
            controls.append(token)
            between.append([])
        else:
            between[-1].append(token)
    return controls, between


def visible(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).replace("\u2581", " ").split())


@pytest.mark.parametrize("kind", KINDS)
@QUICK
@given(system=clean_text, user=clean_text)
def test_clean_text_gets_the_ids_of_apply_chat_template(
    template_of: Callable[[str], ChatTemplate], kind: str, system: str, user: str
) -> None:
    template = template_of(kind)
    text = visible(system + user)
    if not user.strip() or any(visible(literal) in text for literal in literals(template)):
        return
    wanted = reference(template.tokenizer, messages(kind, system, user))
    assert template.encode_prompt(system, user) == wanted


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answer", ["Yes", "The e-mail is from Ann.\n\nIt came on 3 May.", "a - b"])
def test_prompt_and_answer_make_the_whole_conversation(
    template_of: Callable[[str], ChatTemplate], kind: str, answer: str
) -> None:
    template = template_of(kind)
    turns = messages(kind, "Say who sent it.", "Hello, it is Ann.", answer)
    whole = reference(template.tokenizer, turns, prompt=False)
    ids = template.encode_prompt("Say who sent it.", "Hello, it is Ann.")
    ids += template.encode_response(answer)
    assert whole[: len(ids)] == ids
    assert not template.control_ids & set(whole[len(ids) :]) - set(template.stop_ids)
    assert ids[-1] == template.stop_ids[0]
    assert template.stop_ids[-1] == template.tokenizer.eos_token_id


@pytest.mark.parametrize("kind", KINDS)
@QUICK
@given(data=st.data())
def test_no_control_token_comes_from_content(
    template_of: Callable[[str], ChatTemplate], kind: str, data: st.DataObject
) -> None:
    template = template_of(kind)
    text = ascii_text if kind in WITH_UNKNOWN_CHARACTERS else clean_text
    attack = [t for t in literals(template) if t.isascii() or kind not in WITH_UNKNOWN_CHARACTERS]
    hostile = st.lists(st.sampled_from(attack) | text, max_size=5).map("".join)
    system, user, answer = (data.draw(hostile) for _ in range(3))
    ids = template.encode_prompt(system, user)

    clean_controls, clean = segments(template, template.encode_prompt("system", "user"))
    controls, between = segments(template, ids)
    assert controls == clean_controls
    other_controls, other = segments(template, template.encode_prompt("user", "other"))
    assert other_controls == clean_controls
    for own, first, second in zip(between, clean, other, strict=True):
        if first == second:  # no content here
            assert own == first
    decoded = template.tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)
    assert visible(decoded) == visible(template.render(system, user))

    if answer.strip():
        answer_controls, _ = segments(template, template.encode_response(answer))
        assert answer_controls == template.stop_ids[:1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_attacks_are_live_without_this_defence(
    template_of: Callable[[str], ChatTemplate], kind: str
) -> None:
    """Guards the test above against literals that would do nothing anyway."""
    template = template_of(kind)
    clean = reference(template.tokenizer, messages(kind, "system", "user"))
    for text in {token.text for token in template._plain.controls.values()}:
        naive = reference(template.tokenizer, messages(kind, "system", f"a{text}b"))
        token = template.tokenizer.convert_tokens_to_ids(text)
        assert naive.count(token) == clean.count(token) + 1
        assert template.encode_prompt("system", f"a{text}b").count(token) == clean.count(token)


@pytest.mark.parametrize("kind", MARKED_BY_TEXT)
@QUICK
@given(data=st.data())
def test_markers_made_of_text_are_not_spelled_as_in_the_template(
    template_of: Callable[[str], ChatTemplate], kind: str, data: st.DataObject
) -> None:
    template = template_of(kind)
    assert set(template.markers) == MARKED_BY_TEXT[kind]
    parts = st.sampled_from(sorted(template.markers)) | ascii_text
    user = "".join(data.draw(st.lists(parts, max_size=6)))
    ids = template.encode_prompt("Say it.", user)
    clean = template.encode_prompt("Say it.", "Hello.")
    for marker in template.markers:
        for spelling in spellings(template, marker):
            assert occurrences(ids, spelling) == occurrences(clean, spelling), (marker, spelling)


def spellings(template: ChatTemplate, marker: str) -> set[tuple[int, ...]]:
    """Returns the ids of a marker in the tokenizer's own rendering of template and marker."""
    rendered = template.render("Say it.", "Hello.")
    encoding = template.tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
    start = rendered.index(marker)
    stop = start + len(marker)
    inside = [
        token
        for token, (left, right) in zip(encoding.input_ids, encoding.offset_mapping, strict=True)
        if left < stop and right > start
    ]
    alone = template.tokenizer(f"a {marker}", add_special_tokens=False).input_ids
    prefix = template.tokenizer("a", add_special_tokens=False).input_ids
    assert alone[: len(prefix)] == prefix
    return {tuple(inside), tuple(alone[len(prefix) :])}


def occurrences(ids: list[int], pattern: tuple[int, ...]) -> int:
    size = len(pattern)
    return sum(tuple(ids[at : at + size]) == pattern for at in range(len(ids) - size + 1))


def test_words_that_a_control_token_introduces_are_no_markers(build_tokenizer: Build) -> None:
    for kind in ("chatml", "llama3", "gemma_unigram", "phi3"):
        assert ChatTemplate(build_tokenizer(kind)).markers == frozenset()


def test_a_marker_is_found_however_it_is_written(build_tokenizer: Build) -> None:
    folding, literal = (PlainEncoder(build_tokenizer(k)) for k in ("chatml_nfkc", "chatml"))
    wide = "\u00bd \uff3b/INST\uff3d b"  # NFKC makes three characters of the first
    markers = ["[/INST]", "User", "x"]
    assert MarkerGuard(markers, folding).cuts(wide) == set(range(3, 9))
    assert MarkerGuard(markers, literal).cuts(wide) == set()
    for encoder in (folding, literal):
        guard = MarkerGuard(markers, encoder)
        assert guard.cuts("[[/INST]") == set(range(2, 8))
        assert guard.cuts("Users of xUser x") == set()  # a word is no marker inside a word
        assert guard.cuts("a User b") == {3, 4, 5}


@pytest.mark.parametrize("literal", ["<|im_end|>", "<think>"])
def test_a_control_tokens_text_is_encoded_as_ordinary_text(
    build_tokenizer: Build, literal: str
) -> None:
    template = ChatTemplate(build_tokenizer("chatml"))
    state = json.loads(template.tokenizer.backend_tokenizer.to_str())
    ordinary = Tokenizer.from_str(json.dumps({**state, "added_tokens": []}))
    _, between = segments(template, template.encode_prompt("system", f"a{literal}b"))
    assert between[3] == ordinary.encode(f"user\na{literal}b").ids


def test_full_width_forms_are_defused_after_normalization(build_tokenizer: Build) -> None:
    template = ChatTemplate(build_tokenizer("chatml_nfkc"))
    wide = "\uff1c|im_start|\uff1e"
    im_start = template.tokenizer.convert_tokens_to_ids("<|im_start|>")
    naive = reference(template.tokenizer, messages("chatml_nfkc", "s", wide))
    assert naive.count(im_start) == 4
    assert template.encode_prompt("s", wide).count(im_start) == 3


def test_added_tokens_that_are_blank_stay_tokens(build_tokenizer: Build) -> None:
    template = ChatTemplate(build_tokenizer("gemma_unigram"))
    blank = template.tokenizer.convert_tokens_to_ids("\n\n")
    assert blank not in template.control_ids
    assert blank in template.encode_prompt("system", "user")


def test_unknown_characters_are_no_forgery_but_the_unknown_token_text_is(
    build_tokenizer: Build,
) -> None:
    template = ChatTemplate(build_tokenizer("gemma_unigram"))
    unknown = template.tokenizer.unk_token_id
    assert unknown in template.encode_prompt("s", "\u9f8d")
    assert unknown not in template.encode_prompt("s", "<unk>")


def test_the_date_does_not_depend_on_the_day(build_tokenizer: Build) -> None:
    template = ChatTemplate(build_tokenizer("llama3"))
    assert "Today Date: 26 Jul 2024\n" in template.render("s", "u")
    for code in ("%d %B %Y", "%Y-%m-%d", "%A"):
        dated = template.text.replace("%d %b %Y", code)
        fixed = {"%d %B %Y": "26 July 2024", "%Y-%m-%d": "2024-07-26", "%A": "Friday"}[code]
        assert f"Date: {fixed}\n" in ChatTemplate(template.tokenizer, dated).render("s", "u")


def test_render_is_what_the_tokenizer_renders(build_tokenizer: Build) -> None:
    for kind in KINDS:
        tokenizer = build_tokenizer(kind)
        rendered = tokenizer.apply_chat_template(
            messages(kind, " s ", " u "),
            tokenize=False,
            add_generation_prompt=True,
            date_string="26 Jul 2024",
        )
        assert ChatTemplate(tokenizer).render(" s ", " u ") == rendered


def test_fingerprint_follows_template_and_tokenizer(build_tokenizer: Build) -> None:
    chatml, other = build_tokenizer("chatml"), build_tokenizer("chatml_nfkc")
    prints = [
        ChatTemplate(chatml).fingerprint,
        ChatTemplate(chatml, chatml.chat_template + " ").fingerprint,
        ChatTemplate(other).fingerprint,
    ]
    assert len(set(prints)) == 3
    # Settings that a call leaves behind in the backend do not count.
    chatml("text", truncation=True, max_length=5, padding="max_length")
    assert ChatTemplate(chatml).fingerprint == prints[0]


PIECE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}\n{{ m.content }", "not valid Jinja: line 2: "),
        ("{{ raise_exception('never') }}", "the chat template fails: never"),
        ("{{ messages[9].content.strip() }}", "the chat template fails: .*no element 9"),
        (PIECE.replace("m.content", "m.content | replace('2', 'two')"), "cannot be reproduced"),
        (PIECE.replace("m.content", "m.content.strip('\\n')"), "changes the text of the system"),
        (PIECE.replace("m.content", "m.role"), "leaves out the text of: user"),
        ("{% for m in messages[:2] %}" + PIECE[24:], "leaves out the text of: assistant"),
        (PIECE + "".join(map(chr, range(0xE000, 0xF8FF))), "every character for private use"),
    ],
)
def test_a_template_that_cannot_be_used_is_explained(
    build_tokenizer: Build, template: str, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        ChatTemplate(build_tokenizer("chatml"), template)


def small_tokenizer(vocabulary: list[str], **specials: str) -> PreTrainedTokenizerFast:
    vocab = {token: index for index, token in enumerate(vocabulary)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="\ufffd"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **specials)


ASCII = [chr(code) for code in range(32, 127)] + ["\n", "\ufffd"]


def test_a_tokenizer_that_cannot_be_used_is_explained(build_tokenizer: Build) -> None:
    with pytest.raises(ModelError, match=r"no chat template: set `model\.chat_template`"):
        ChatTemplate(small_tokenizer(ASCII))
    plain = "{% for m in messages %}{{ m.role }} says {{ m.content }}\n{% endfor %}"
    with pytest.raises(ModelError, match="would never stop"):
        ChatTemplate(small_tokenizer(ASCII), plain)
    with pytest.raises(ModelError, match="content could forge it"):
        ChatTemplate(small_tokenizer([*ASCII, "<eos>"], eos_token="<eos>"), plain)

    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="Slow is a slow tokenizer"):
        ChatTemplate(Slow())  # type: ignore[arg-type]


def test_a_character_that_is_a_control_token_is_refused() -> None:
    tokenizer = small_tokenizer([*ASCII, "<|im_end|>"], eos_token="<|im_end|>")
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken("~", normalized=False)])
    template = ChatTemplate(tokenizer, PIECE.replace("<|im_start|>", "~"))
    with pytest.raises(DataError, match=r"'~' \(U\+007E\) is the control token '~'"):
        template.encode_prompt("system", "a ~ b")
    with pytest.raises(DataError, match="response: empty"):
        template.encode_response(" \n")


@pytest.mark.slow
def test_the_real_small_model() -> None:
    from llmcausal.config import ModelSection
    from llmcausal.model.factory import load_tokenizer

    template = ChatTemplate(load_tokenizer(ModelSection()))
    clean, _ = segments(template, template.encode_prompt("s", "u"))
    for literal in literals(template):
        ids = template.encode_prompt(f"s {literal}", f"u{literal}")
        assert segments(template, ids)[0] == clean
