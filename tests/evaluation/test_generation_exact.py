"""Answers of the prefix-tree decoder against transformers' own generation, one prompt at a time."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, GenerationConfig

from llmcausal.config import LoraSection
from llmcausal.evaluation import generation
from llmcausal.evaluation.decoding import TreeDecoder, blockwise_attention
from llmcausal.evaluation.generation import Decoding, base_model_of, generate, without_adapter
from llmcausal.model import cpu_layers
from llmcausal.model.cpu_layers import whole_layers
from llmcausal.model.lora import add_lora

STOP = 257
TARGETS = ("q_proj", "v_proj", "down_proj")


def adapted(model: Any, targets: tuple[str, ...] = TARGETS) -> Any:
    model = add_lora(model, LoraSection(rank=4, target_modules=targets), seed=1)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.5, generator=generator)
    return model.eval()


def four_bit(model: Any) -> Any:
    """Quantizes every linear layer but the head, as loading with NF4 does."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, module in list(model.named_modules()):
        if type(module) is not torch.nn.Linear or name == "lm_head":
            continue
        linear = Linear4bit(
            module.in_features, module.out_features, bias=module.bias is not None,
            compute_dtype=torch.float32, quant_type="nf4",
        )  # fmt: skip
        linear.weight = Params4bit(module.weight.data, requires_grad=False, quant_type="nf4")
        if module.bias is not None:
            linear.bias = module.bias
        linear = linear.to("cpu").eval()
        linear.support_avx512bf16_for_cpu = False
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, linear)
    return model


def one_by_one(model: Any, prompts: Any, stop_ids: list[int], limit: int) -> list[list[int]]:
    """The reference: transformers' generate, one prompt in each call."""
    config = GenerationConfig(
        do_sample=False, max_new_tokens=limit, eos_token_id=stop_ids, pad_token_id=stop_ids[0]
    )
    rows = []
    base = base_model_of(model)
    for prompt in prompts:
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        output = base.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        rows.append(output[0, len(prompt) :].tolist())
    return rows


def frequent_token(rows: list[list[int]]) -> int:
    flat = [token for row in rows for token in set(row[1:-1])]
    return max(set(flat), key=flat.count)


@pytest.fixture(params=["fp32", "nf4"])
def model(request: Any, tiny_llama: Callable[..., Any]) -> Any:
    plain = tiny_llama(seed=0)
    return adapted(four_bit(plain) if request.param == "nf4" else plain)


@given(data=st.data())
@settings(
    max_examples=15, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_same_tokens_as_one_by_one(model: Any, data: st.DataObject) -> None:
    tokens = st.integers(0, 255)
    prefixes = data.draw(st.lists(st.lists(tokens, max_size=25), min_size=1, max_size=3))
    prompts = [
        data.draw(st.sampled_from(prefixes)) + data.draw(st.lists(tokens, min_size=1, max_size=20))
        for _ in range(data.draw(st.integers(1, 7)))
    ]
    prompts += prompts[: data.draw(st.integers(0, 2))]  # the same prompt twice
    limit = data.draw(st.integers(1, 9))
    free = one_by_one(model, prompts, [STOP], limit)
    stop_ids = [STOP]
    if data.draw(st.booleans()) and any(len(row) > 2 for row in free):
        stop_ids.append(frequent_token(free))
    expected = free if stop_ids == [STOP] else one_by_one(model, prompts, stop_ids, limit)
    batch_size = data.draw(st.integers(1, 8))
    assert expected == generate(model, prompts, Decoding(stop_ids, limit, batch_size))


def random_prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)

    def some(count: int) -> list[int]:
        return torch.randint(0, 256, (count,), generator=generator).tolist()

    shared = some(30)
    return [shared + some(n) for n in (1, 4, 9)] + [some(n) for n in (2, 50)] + [shared]


def test_without_adapter_too(model: Any) -> None:
    prompts = random_prompts()
    with without_adapter(model):
        expected = one_by_one(model, prompts, [STOP], 10)
        assert expected == generate(model, prompts, Decoding([STOP], 10, 4))
    assert expected != generate(model, prompts, Decoding([STOP], 10, 4))


@pytest.mark.parametrize("adapter", [True, False])
def test_logits_of_the_prompts_and_of_the_first_step(model: Any, adapter: bool) -> None:
    prompts = random_prompts()
    base = base_model_of(model)
    added = torch.arange(40, 40 + len(prompts))
    with torch.no_grad(), warnings.catch_warnings():
        if not adapter:
            model.disable_adapter_layers()
        plain = [base(input_ids=torch.tensor([p])).logits[0, -1] for p in prompts]
        stepped = [
            base(input_ids=torch.tensor([[*p, int(t)]])).logits[0, -1]
            for p, t in zip(prompts, added, strict=True)
        ]
        with blockwise_attention(base), whole_layers(model):
            decoder = TreeDecoder(base, longest=100)
            first, cache = decoder.prefill(prompts, 2)
            lengths = torch.tensor([len(p) for p in prompts])
            order = cache.keep([0, 2, 4, 5])  # rows 1 and 3 have ended
            second = decoder.step(added[order], lengths[order], cache)
    assert sorted(order) == [0, 2, 4, 5]
    assert (first - torch.stack(plain)).abs().max() < 1e-5 * first.abs().max()
    expected = torch.stack(stepped)[order]
    assert (second - expected).abs().max() < 1e-5 * expected.abs().max()


def test_nothing_of_the_model_changes(model: Any) -> None:
    base = base_model_of(model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    attributes = [sorted(vars(module)) for module in model.modules()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    kept = (base.generation_config, base.config._attn_implementation, base.config.use_cache)
    generate(model, random_prompts(), Decoding([STOP], 4, 3))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable
    assert [sorted(vars(module)) for module in model.modules()] == attributes
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    now = (base.generation_config, base.config._attn_implementation, base.config.use_cache)
    assert now == kept


def test_nothing_changes_when_interrupted(model: Any) -> None:
    attributes = [sorted(vars(module)) for module in model.modules()]

    def stop(done: int, total: int) -> None:
        assert not torch.is_grad_enabled()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:  # the traceback keeps every frame alive
        generate(model, random_prompts(), Decoding([STOP], 3, 2), progress=stop)
    assert caught.traceback
    assert torch.is_grad_enabled()
    assert [sorted(vars(module)) for module in model.modules()] == attributes


def test_sixteen_bits_are_decoded_as_a_tree(
    tiny_llama: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Logits differ by rounding, more than fp32 ones may; a wrong mask must still be found."""
    model = adapted(tiny_llama(seed=3, initializer_range=0.1).to(torch.bfloat16))
    prompts = random_prompts()
    with caplog.at_level(logging.WARNING), torch.autocast("cpu", dtype=torch.bfloat16):
        found = generate(model, prompts, Decoding([STOP], 6, 4))
        expected = one_by_one(model, prompts, [STOP], 6)
    assert "padded" not in caplog.text
    same = sum(a == b for a, b in zip(found, expected, strict=True))
    assert same >= len(prompts) / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cache_that_is_masked_wrongly_is_refused(
    tiny_llama: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmcausal.errors import ModelError
    from llmcausal.evaluation.decoding import RowCache

    base = tiny_llama(seed=3, initializer_range=0.1).to(dtype)
    monkeypatch.setattr(RowCache, "next_mask", lambda self: torch.zeros_like(
        self.mask[: self.rows, ..., : self.column + 1]))  # fmt: skip
    with torch.no_grad(), blockwise_attention(base), pytest.raises(ModelError, match="correlation"):
        TreeDecoder(base, longest=100)


def test_a_trees_keys_have_their_places_before_the_second_layer() -> None:
    from llmcausal.evaluation.decoding import NodeCache

    cache, plain = NodeCache(3), DynamicCache()
    layers = [(torch.randn(1, 2, 9, 4)[:, :, :7], torch.randn(1, 2, 7, 4)) for _ in range(2)]
    layers.append((torch.randn(1, 1, 7, 8), torch.randn(1, 1, 7, 8)))
    free = []
    for index, pair in enumerate(layers):
        found, expected = cache.update(*pair, index), plain.update(*pair, index)
        assert all(map(torch.equal, found, expected))
        free.append(len(cache.free))
    assert free == [2, 1, 0]
    for each, other in zip(cache.layers, plain.layers, strict=True):
        assert torch.equal(each.keys, other.keys)
        assert torch.equal(each.values, other.values)


def test_answers_of_whole_layers_take_their_places_together(
    tiny_llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmcausal.evaluation import decoding

    made = []

    class Watched(decoding.NodeCache):
        def __init__(self, layers: int) -> None:
            made.append(layers)
            super().__init__(layers)

    monkeypatch.setattr(decoding, "NodeCache", Watched)
    model, prompts = adapted(tiny_llama(seed=3)), random_prompts()
    generate(model, prompts, Decoding([STOP], 2, 4))
    count = len(base_model_of(model).model.layers)
    assert set(made) == {count}
    made.clear()
    with whole_layers(model):  # as in `eval`, and in a run's own validation
        generate(model, prompts, Decoding([STOP], 2, 4))
    assert set(made) == {count}


def test_dequantized_weight_gives_bitsandbytes_product(tiny_llama: Any) -> None:
    from bitsandbytes.functional import dequantize_4bit

    layer = four_bit(tiny_llama(seed=0)).model.layers[0].mlp.up_proj
    weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    inputs = torch.randn(7, layer.in_features)
    with torch.no_grad():
        assert torch.equal(layer(inputs), torch.nn.functional.linear(inputs, weight))


def test_too_little_memory_leaves_the_weights_packed(
    model: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = random_prompts()
    expected = one_by_one(model, prompts, [STOP], 6)
    monkeypatch.setattr(cpu_layers, "MEMORY_SHARE", 0.0)
    assert expected == generate(model, prompts, Decoding([STOP], 6, 4))
    four_bit = any(isinstance(module, Linear4bit) for module in model.modules())
    assert ("free memory" in caplog.text) == four_bit


def other_model(kind: str, **extra: Any) -> Any:
    from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config
    from transformers import Gemma2Config, GPT2Config  # isort: skip

    common: dict[str, Any] = {
        "vocab_size": 258, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "initializer_range": 0.3, "pad_token_id": 257, "bos_token_id": 256, "eos_token_id": 257,
        **extra,
    }  # fmt: skip
    config: Any = {
        "qwen2": lambda: Qwen2Config(**common),
        "mistral": lambda: MistralConfig(**{"sliding_window": None, **common}),
        "gemma2": lambda: Gemma2Config(**{"head_dim": 8, **common}),
        "eager": lambda: LlamaConfig(**common, attn_implementation="eager"),
        "gpt2": lambda: GPT2Config(
            vocab_size=258, n_embd=32, n_layer=2, n_head=4, n_positions=512,
            initializer_range=0.3, bos_token_id=256, eos_token_id=257,
        ),
    }[kind]()  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = AutoModelForCausalLM.from_config(config)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("kind", "extra", "reason"),
    [
        ("qwen2", {}, ""),
        ("mistral", {}, ""),
        ("mistral", {"sliding_window": 100}, ""),
        ("mistral", {"sliding_window": 16}, "sliding window of 16"),
        ("gemma2", {"sliding_window": 16}, "not SDPA"),
        ("eager", {}, "not SDPA"),
        ("gpt2", {}, ""),
    ],
)
def test_other_architectures(
    kind: str, extra: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = other_model(kind, **extra)
    prompts = random_prompts()
    expected = one_by_one(model, prompts, [STOP], 8)
    found = generate(model, prompts, Decoding([STOP], 8, 4))
    assert found == expected
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert bool(reason) == bool(told), told
    assert reason in "".join(told)


def test_out_of_memory_halves_the_batch(
    model: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = random_prompts()
    expected = one_by_one(model, prompts, [STOP], 5)
    sizes = []

    class Small(TreeDecoder):
        def __call__(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
            sizes.append(len(batch))
            if len(batch) > 2:
                raise torch.cuda.OutOfMemoryError("full")
            return super().__call__(batch, *args, **kwargs)

    monkeypatch.setattr(generation, "TreeDecoder", Small)
    progress: list[int] = []
    found = generate(
        model, prompts, Decoding([STOP], 5, 4),
        progress=lambda done, total: progress.append(done),
    )  # fmt: skip
    assert found == expected
    assert sizes == [4, 2, 2, 2]
    assert progress == [2, 4, 6]
    assert "2 prompts at a time" in caplog.text

    def none_fits(self: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("full")

    monkeypatch.setattr(Small, "__call__", none_fits)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        generate(model, prompts, Decoding([STOP], 5, 4))
