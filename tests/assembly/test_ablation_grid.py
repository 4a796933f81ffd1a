"""What `--vary` means, and what is refused before anything runs."""

from __future__ import annotations

import pytest

from llmcausal.assembly.ablation import combine, parse_axis
from llmcausal.errors import UsageError


def labels(*texts: str) -> list[str]:
    return [each.label for each in combine([parse_axis(text) for text in texts])]


def test_the_grid_has_every_combination_the_last_axis_fastest() -> None:
    assert labels("loss.lambda_robust=0,1", "lora.rank=8,16") == [
        "lambda_robust=0, rank=8",
        "lambda_robust=0, rank=16",
        "lambda_robust=1, rank=8",
        "lambda_robust=1, rank=16",
    ]


def test_joint_values_vary_together() -> None:
    text = "loss.lambda_contrastive, loss.projection_dim=0:128,1:0, 1:128"
    combinations = combine([parse_axis(text), parse_axis("train.seed=0,1")])
    assert [each.choices for each in combinations] == [
        ("0:128", "0"), ("0:128", "1"), ("1:0", "0"), ("1:0", "1"), ("1:128", "0"), ("1:128", "1"),
    ]  # fmt: skip
    assert combinations[2].settings == {
        "loss.lambda_contrastive": "1", "loss.projection_dim": "0", "train.seed": "0",
    }  # fmt: skip


def test_separators_within_values_belong_to_them() -> None:
    axis = parse_axis('lora.target_modules=["q_proj"],["q_proj", "v_proj"]')
    assert axis.values == (('["q_proj"]',), ('["q_proj", "v_proj"]',))
    joint = parse_axis('loss.contrastive,loss.options.x="my:Loss":1,info_nce:2')
    assert joint.values == (('"my:Loss"', "1"), ("info_nce", "2"))
    alone = parse_axis("loss.contrastive=my:Loss,info_nce")
    assert alone.values == (("my:Loss",), ("info_nce",))


def test_settings_of_the_same_name_keep_their_sections() -> None:
    assert labels("train.batch_size=1", "validation.batch_size=2") == [
        "train.batch_size=1, validation.batch_size=2"
    ]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["lora.r=8,16"], r"lora\.r: unknown setting; did you mean lora\.rank\?"),
        (["lora=8"], "lora: unknown setting"),
        (["lora.rank"], "write it as"),
        (["lora.rank="], "write it as"),
        (["lora.rank=8,,16"], "has 1 values for 1 settings|'' has"),
        (["lora.rank,lora.alpha=8:16,8"], "'8' has 1 values for 2 settings"),
        (["lora.rank=8,8"], "the value 8 is given twice"),
        (["lora.rank=8", "lora.rank,lora.alpha=16:32"], "lora.rank is varied twice"),
        (["evaluation.max_new_tokens=8,16"], "cannot vary: all runs must be evaluated alike"),
        (["data.test=a.jsonl,b.jsonl"], "same prompts"),
        (["data.builtin.test_seen=0,9"], "same prompts"),
        (["model.name=a,b"], "one ablation for each model"),
        (["name=a,b"], "named by what varies"),
    ],
)
def test_what_cannot_be_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        labels(*texts)
