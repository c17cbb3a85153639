"""The parts of a recipe about training, and about what is measured afterwards."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from yanmo.recipe.section import Section

BUDGETS = ("steps", "tokens", "epochs", "minutes")


class Training(Section):
    """The trainer. At most one budget: steps, tokens, epochs or minutes; with none, one epoch."""

    steps: int | None = Field(default=None, ge=1)
    """Budget in optimizer steps."""
    tokens: int | None = Field(default=None, ge=1)
    """Budget in tokens read."""
    epochs: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Budget in passes over the training text."""
    minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Budget in minutes, turned into steps by measuring: at the start, and three times on the way."""
    rows: int = Field(default=32, ge=1)
    """Rows of an optimizer step, over all ranks."""
    length: int = Field(default=256, ge=8)
    """Tokens of a row."""
    micro_rows: int | None = Field(default=None, ge=1)
    """Rows that go through the network at once on one rank; by default all, on a CPU what stays in its cache."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """Muon for the matrices inside the blocks and AdamW for the rest, or AdamW for all."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak of AdamW's learning rate; by default what suits the width."""
    matrix_learning_rate: float | None = Field(default=None, gt=0)
    """Peak of Muon's learning rate for matrices (ignored, and refused, with adamw)."""
    weight_decay: float = Field(default=0.1, ge=0)
    """On matrices only; vectors, norms and embeddings have none."""
    beta2: float = Field(default=0.95, gt=0, lt=1)
    """How long AdamW remembers squares of gradients: 0.95 for short runs at high rates (Brown et al. 2020, appendix B)."""
    clip: float | None = Field(default=1.0, gt=0)
    """Largest norm of the whole gradient; null switches clipping off."""
    schedule: Literal["cosine", "linear", "constant-decay", "inverse-sqrt"] = "linear"
    """How the learning rate goes after warmup; constant-decay stays at the peak and falls to zero over the last `decay`."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps over which the rate rises."""
    decay: float = Field(default=0.3, gt=0, le=1)
    """Share of the steps over which constant-decay falls."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto: bf16 compute with fp32 master weights where the device has it, fp32 elsewhere."""
    compile: bool | None = None
    """Compile the blocks; by default what measures best on the device."""
    checkpoint_activations: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    validate_every: int | None = Field(default=None, ge=1)
    """Steps between validations; by default ten validations in a run."""
    validation_rows: int = Field(default=128, ge=1)
    """Rows of the fixed validation set."""
    patience: int | None = Field(default=None, ge=1)
    """Validations in a row that are no better than the best one, after which training ends; by default it does not."""
    save_every: int | None = Field(default=None, ge=1)
    """Steps between checkpoints; by default about every five minutes and at every validation's best."""
    keep: int = Field(default=2, ge=1)
    """Latest checkpoints kept, besides the best."""
    trackers: tuple[Literal["wandb", "mlflow", "trackio"], ...] = ()
    """Where metrics go besides metrics.jsonl and TensorBoard; the package must be installed."""
    loader_workers: int | None = Field(default=None, ge=0)
    """Processes that build batches; by default none on a CPU, two for each GPU."""

    @model_validator(mode="after")
    def _one_budget(self) -> Training:
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"budgets given: {', '.join(given)}; keep one")
        if self.optimizer == "adamw" and self.matrix_learning_rate is not None:
            raise ValueError("matrix_learning_rate belongs to optimizer muon; with adamw set learning_rate")
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> Training:
        if self.schedule != "constant-decay":
            if self.decay != type(self).model_fields["decay"].default:
                raise ValueError(f"decay belongs to schedule constant-decay; {self.schedule} does not read it")
        elif self.warmup + self.decay > 1:
            raise ValueError(f"warmup {self.warmup:g} and decay {self.decay:g} are shares of the steps: together at most 1")
        return self


class Evaluation(Section):
    """What is measured and shown after training."""

    pseudo_likelihood: int = Field(default=50, ge=0)
    """Held-out sentences that are scored, the same whatever the family (slow for encoders, one pass a token); 0: none."""
    fill: tuple[str, ...] = ()
    """Sentences with [MASK] to fill in (encoders)."""
    prompts: tuple[str, ...] = ()
    """Beginnings to continue (decoders)."""

    @field_validator("fill")
    @classmethod
    def _have_gaps(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            if "[MASK]" not in text and "<mask>" not in text:
                raise ValueError(f"{text!r} has no gap; write [MASK] where a token is to be filled in")
        return texts
