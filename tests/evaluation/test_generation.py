from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from llmcausal.errors import ModelError, UsageError
from llmcausal.evaluation import generation
from llmcausal.evaluation.decoding import Sampling
from llmcausal.evaluation.generation import (
    Answering,
    Decoding,
    answer_prompts,
    evaluation_mode,
    generate,
    sample_prompts,
    without_adapter,
)

STOP = 257


def prompts_of(lengths: list[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(0, 256, (n,), generator=generator).tolist() for n in lengths]


def greedy_by_hand(model: Any, prompt: list[int], stop_ids: list[int], limit: int) -> list[int]:
    """The reference: no cache, no padding, no library generation."""
    tokens: list[int] = []
    while len(tokens) < limit and not (tokens and tokens[-1] in stop_ids):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + tokens])).logits[0, -1]
        tokens.append(int(logits.argmax()))
    return tokens


def common_token(rows: list[list[int]]) -> int:
    """A token that several answers contain, so that some answers stop early and others do not."""
    flat = [token for row in rows for token in set(row[2:-2])]
    return max(set(flat), key=flat.count)


def test_batched_equals_one_by_one(peft_model: Any) -> None:
    prompts = prompts_of([3, 40, 1, 17, 17, 90, 8, 2, 33])
    free = [greedy_by_hand(peft_model, prompt, [STOP], 12) for prompt in prompts]
    stop_ids = [STOP, common_token(free)]
    expected = [greedy_by_hand(peft_model, prompt, stop_ids, 12) for prompt in prompts]
    assert {len(row) < 12 for row in expected} == {True, False}
    for batch_size in (1, 4, 16):
        assert expected == generate(peft_model, prompts, Decoding(stop_ids, 12, batch_size))


def test_pad_token_inside_a_prompt_is_still_read(peft_model: Any) -> None:
    # The pad token is the end-of-turn token: masked by id, it would vanish from prompts.
    prompts = [[STOP, 5, STOP, 9], prompts_of([30])[0]]
    expected = [greedy_by_hand(peft_model, prompt, [STOP], 8) for prompt in prompts]
    assert expected == generate(peft_model, prompts, Decoding([STOP], 8, 2))


def test_the_models_own_generation_settings_do_not_leak(peft_model: Any) -> None:
    prompts = prompts_of([12, 7])
    before = generate(peft_model, prompts, Decoding([STOP], 10, 2))
    own = GenerationConfig(
        do_sample=True,
        temperature=5.0,
        repetition_penalty=9.0,
        no_repeat_ngram_size=1,
        eos_token_id=list(range(250)),
        max_length=3,
    )
    peft_model.get_base_model().generation_config = own
    after = generate(peft_model, prompts, Decoding([STOP], 10, 2))
    assert before == after
    assert peft_model.get_base_model().generation_config is own


def test_leaves_the_model_as_it_was(peft_model: Any) -> None:
    base = peft_model.get_base_model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # renamed in newer transformers
        base.gradient_checkpointing_enable({"use_reentrant": False})
    base.config.use_cache = False
    peft_model.train()
    base.model.layers[0].eval()
    modes = [module.training for module in peft_model.modules()]
    trainable = {name for name, p in peft_model.named_parameters() if p.requires_grad}
    with without_adapter(peft_model):
        generate(peft_model, prompts_of([5]), Decoding([STOP], 3, 1))
    assert [module.training for module in peft_model.modules()] == modes
    assert {n for n, p in peft_model.named_parameters() if p.requires_grad} == trainable
    assert all(layer.gradient_checkpointing for layer in base.model.layers)
    assert base.config.use_cache is False
    # Training goes on: nothing that inference mode made has stayed in the model.
    peft_model.train()
    peft_model(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in peft_model.parameters())


def test_restores_the_model_when_generation_fails(peft_model: Any) -> None:
    own = peft_model.get_base_model().generation_config
    peft_model.train()
    with pytest.raises(IndexError):
        generate(peft_model, [[9999]], Decoding([STOP], 3, 1))
    assert peft_model.training
    assert peft_model.get_base_model().generation_config is own


def test_frozen_adapter_stays_frozen(peft_model: Any) -> None:
    peft_model.requires_grad_(False)
    with without_adapter(peft_model):
        pass
    assert not any(parameter.requires_grad for parameter in peft_model.parameters())


def test_without_adapter_is_the_base_model(peft_model: Any, tiny_llama: Any) -> None:
    prompts = prompts_of([9, 21])
    decoding = Decoding([STOP], 12, 2)
    tuned = generate(peft_model, prompts, decoding)
    with without_adapter(peft_model):
        base = generate(peft_model, prompts, decoding)
    assert base == generate(tiny_llama(seed=0), prompts, decoding)
    assert base != tuned
    assert generate(peft_model, prompts, decoding) == tuned


def test_answers_keep_order_and_report_progress(peft_model: Any, template: Any) -> None:
    pairs = [("Be brief.", "x" * n) for n in (3, 50, 1, 20, 7)]
    seen: list[tuple[int, int]] = []
    answers = answer_prompts(
        Answering(peft_model, template, 6, 2),
        pairs,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]
    for pair, answer in zip(pairs, answers, strict=True):
        tokens = greedy_by_hand(peft_model, template.encode_prompt(*pair), template.stop_ids, 6)
        text = template.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        assert answer.text == text
        assert answer.stopped is (tokens[-1] in template.stop_ids)


def test_refusals(peft_model: Any, tiny_llama: Any, template: Any) -> None:
    with pytest.raises(ModelError, match="end-of-turn"):
        generate(peft_model, [[1]], Decoding([], 1, 1))
    with pytest.raises(ValueError, match="no tokens"):
        generate(peft_model, [[1], []], Decoding([STOP], 1, 1))
    with pytest.raises(UsageError, match="no adapter"):
        answer_prompts(Answering(tiny_llama(), template, 1, 1), [("s", "u")], adapter=False)


def test_four_bit_weights_are_not_repacked() -> None:
    """bitsandbytes repacks 4-bit weights in evaluation mode on some CPUs, and gradients vanish."""
    bitsandbytes = pytest.importorskip("bitsandbytes")

    linear = bitsandbytes.nn.Linear4bit(
        64, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4"
    ).to("cpu")
    linear.support_avx512bf16_for_cpu = True
    with evaluation_mode(linear), torch.no_grad():
        assert not linear.training
        linear(torch.randn(2, 64))
    assert linear.support_avx512bf16_for_cpu is True
    linear.train()
    inputs = torch.randn(2, 64, requires_grad=True)
    linear(inputs).sum().backward()
    assert inputs.grad is not None


def test_drawn_tokens_are_as_frequent_as_they_are_probable() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).repeat(20_000, 1)
    drawn = Sampling(1, 0.5, seed=0).choice()(logits)
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(shares, torch.softmax(logits[0] / 0.5, -1), atol=0.01, rtol=0)


@pytest.mark.parametrize("tree", [True, False])
def test_answers_are_drawn_from_a_seed(
    peft_model: Any, template: Any, tree: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the model takes no tree; what others draw from stays as it was."""

    class NoTree:
        def __init__(self, *_: Any) -> None:
            raise ModelError("no tree here")

    if not tree:
        monkeypatch.setattr(generation, "TreeDecoder", NoTree)
    pairs = [("Be brief.", "x" * n) for n in (3, 50)]
    state = torch.get_rng_state()

    def draw(temperature: float, seed: int, batch_size: int = 4) -> list[list[str]]:
        answering = Answering(peft_model, template, 6, batch_size)
        return sample_prompts(answering, pairs, Sampling(3, temperature, seed))

    first = draw(2.0, 1)
    assert [len(texts) for texts in first] == [3, 3]
    assert draw(2.0, 1) == first
    assert draw(2.0, 2) != first
    assert len({text for texts in first for text in texts}) > 2
    assert torch.equal(torch.get_rng_state(), state)
    answering = Answering(peft_model, template, 6, 2)
    greedy = answer_prompts(answering, pairs)
    assert draw(1e-4, 1) == [[answer.text] * 3 for answer in greedy]
    assert sample_prompts(answering, pairs, Sampling(0, 1.0, 0)) == [[], []]
