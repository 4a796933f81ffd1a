"""What only a GPU can show: bf16 with fp32 adapters, paged states, exact resume on CUDA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.gpu


@pytest.fixture
def profile(tmp_path: Path, tiny_llama: Any, chatml_tokenizer: Any) -> Path:
    model = tmp_path / "model"
    tiny_llama(
        hidden_size=256, intermediate_size=8192, max_position_embeddings=2048
    ).save_pretrained(model)
    chatml_tokenizer.save_pretrained(model)
    path = tmp_path / "cuda.toml"
    path.write_text(f"""
        output_dir = "{tmp_path / "runs"}"
        model = {{ name = "{model}", device = "cuda" }}
        data = {{ builtin = {{ train = 16, validation = 4 }} }}
        train = {{ batch_size = 2, accumulation_steps = 2, epochs = 2 }}
        checkpoint = {{ every_steps = 2, keep = 4 }}
        evaluation = {{ at_end = false }}
    """)
    return path


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_a_run_on_cuda_learns_and_resumes_exactly(profile: Path, precision: str) -> None:
    from llmcausal.profile import load_config
    from llmcausal.train.callbacks.metrics_log import read_rows
    from tests import program

    config = load_config(profile, [f"model.precision={precision}"])
    run_dir = program.train(config, plain=True).run_dir
    metrics = read_rows(run_dir / "metrics.jsonl")
    assert metrics[-1]["val_loss"] < metrics[0]["val_loss"]
    state = torch.load(run_dir / "checkpoint-8" / "training_state.pt", weights_only=True)
    sizes = [s["__bnb_optimizer_quant_state__"]["state1"].numel()
             for s in state["optimizer"]["state"].values()
             if "__bnb_optimizer_quant_state__" in s]  # fmt: skip
    assert max(sizes) >= 1e5  # from there on bitsandbytes pages
    last = run_dir / "checkpoint-8" / "adapter_model.safetensors"
    weights = last.read_bytes()
    program.resume(run_dir / "checkpoint-4", plain=True)
    assert last.read_bytes() == weights


@pytest.mark.parametrize(
    ("dtype", "node"),
    [(torch.bfloat16, "ScaledDotProductFlash"), (torch.float32, "EfficientAttention")],
)
def test_attention_without_a_mask_is_that_with_one(dtype: torch.dtype, node: str) -> None:
    """A shared prefix and two branches, against one mask over all nodes in fp64."""
    from llmcausal.data.prefix_tree import attention_blocks, pack
    from llmcausal.model import tree_attention

    tree = pack([[1] * 300, [1] * 100 + [2] * 77])
    ends = torch.from_numpy(tree.subtree_ends).cuda()
    index = torch.arange(len(tree), device="cuda")
    seen = (index[None] <= index[:, None]) & (index[:, None] < ends[None])
    drawn = [torch.randn(1, heads, len(tree), 64, device="cuda") for heads in (8, 2, 2)]
    given = [each.to(dtype).requires_grad_() for each in drawn]
    exact = [each.detach().double().requires_grad_() for each in given]
    blocks = tree_attention.TreeBlocks(attention_blocks(tree.subtree_ends), ends)
    attend: Any = tree_attention.tree_attention_forward
    output, _ = attend(torch.nn.Module(), *given, None, tree_blocks=blocks)
    assert not blocks.masks
    single, _ = attend(torch.nn.Module(), *given, None)
    assert tree_attention._attention_node(single).name().startswith(node)
    q, k, v = exact
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, seen, enable_gqa=True)
    upstream = torch.randn_like(output)
    found = [output, *torch.autograd.grad(output, given, upstream)]
    truth = [wanted.transpose(1, 2)]
    truth += torch.autograd.grad(truth[0], exact, upstream.double())
    for one, other in zip(found, truth, strict=True):
        assert (one - other).norm() < (2e-2 if dtype == torch.bfloat16 else 1e-3) * other.norm()


@pytest.mark.parametrize("members", ["tree", "separate"])
def test_bf16_stays_near_fp32(profile: Path, members: str) -> None:
    """Relative to the loss of an fp32 step on the same triplets."""
    from llmcausal.profile import load_config
    from llmcausal.train.callbacks.metrics_log import read_rows
    from tests import program

    found = {}
    for precision in ("fp32", "bf16"):
        settings = [f"model.precision={precision}", f"memory.members={members}"]
        settings += ["train.max_steps=1", "model.quantization=none"]
        run_dir = program.train(load_config(profile, settings), plain=True).run_dir
        found[precision] = read_rows(run_dir / "metrics.jsonl")[0]["val_task_loss"]
    assert found["bf16"] == pytest.approx(found["fp32"], rel=2e-2)
    assert torch.cuda.max_memory_allocated() > 0


def test_a_lean_run_gives_what_a_plain_one_does(profile: Path) -> None:
    """Layer inputs, embeddings and head in host memory; one member at a time; fp32."""
    from llmcausal.profile import load_config
    from llmcausal.train.callbacks.metrics_log import read_rows
    from tests import program

    lean = ["activations='offload'", "embeddings='host'", "head='host'", "members='one_by_one'"]
    lean += ["vocabulary_chunk=100", "token_chunk=64", "label_chunk=16"]
    found, peaks = [], []
    for switches in (["members='separate'", "activations='recompute'"], lean):
        settings = [f"memory.{switch}" for switch in ("strategy='manual'", *switches)]
        settings += ["model.precision=fp32", "train.max_steps=3", "train.optimizer=adamw"]
        torch.cuda.reset_peak_memory_stats()
        run_dir = program.train(load_config(profile, settings), plain=True).run_dir
        found.append(read_rows(run_dir / "metrics.jsonl"))
        peaks.append(torch.cuda.max_memory_allocated())
    for plain, other in zip(*found, strict=True):
        for name in ("loss", "grad_norm"):
            if name in plain:
                assert other[name] == pytest.approx(plain[name], rel=1e-3), name
    assert peaks[1] < peaks[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fused_modules_are_as_near_to_exact_gradients_as_plain_ones(
    tiny_llama: Any, dtype: torch.dtype
) -> None:
    """torch's fused norm has a kernel of its own on CUDA."""
    import copy

    from llmcausal.config import LoraSection
    from llmcausal.model.fused import fuse
    from llmcausal.model.lora import add_lora

    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    base = tiny_llama(hidden_size=256).to("cuda", dtype)
    model = add_lora(base, LoraSection(rank=8, target_modules=names), 0).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    ids = torch.arange(50, device="cuda")[None]
    weights = torch.randn(1, 50, base.config.vocab_size, device="cuda", dtype=torch.double)

    def gradients(model: Any, narrow: bool) -> torch.Tensor:
        with torch.autocast("cuda", dtype, enabled=narrow):
            logits = model(input_ids=ids, use_cache=False).logits
        trained = [p for p in model.parameters() if p.requires_grad]
        found = torch.autograd.grad((logits.double() * weights).mean(), trained)
        return torch.cat([each.double().flatten() for each in found])

    exact = gradients(copy.deepcopy(model).double(), False)
    plain = gradients(model, True)
    fuse(model)
    distances = [(each - exact).norm() / exact.norm() for each in (gradients(model, True), plain)]
    assert distances[0] <= 1.3 * distances[1]
