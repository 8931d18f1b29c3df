"""One training run: check the data, load, score, train, score again, save."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import Trainer, TrainingArguments, set_seed

from phi3v.schema import UserError
from phi3v.trainer.adapt import adapt
from phi3v.trainer.collate import collate
from phi3v.trainer.config import FILE_NAME, TrainConfig
from phi3v.trainer.data import Examples, Records, find_files, said_in_worker
from phi3v.trainer.encode import Encoder
from phi3v.trainer.evaluate import Prediction, accuracy, predict, write_scores
from phi3v.trainer.load import is_adapter, load_model, load_processor
from phi3v.trainer.machine import accumulation, attention, is_first_process, precision, processes
from phi3v.trainer.model import Phi3VProcessor

# transformers 5.23 renamed gradient checkpointing.
CHECKPOINTING = (
    "activation_checkpointing" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient_checkpointing"
)
FULL_WARMUP = 50  # the original recipe's
# What a run leaves in its folder, beside the processor's files, which the next run writes over in any case.
OUTPUTS = (
    "adapter_*",
    "config.json",
    "eval_*.json",
    "generation_config.json",
    "model*.safetensors*",
    "trainer_state.json",
)
WARMUP_SHARE = 10  # a shorter run warms up for a tenth of its steps: else it would never reach its learning rate

When = Literal["before", "after"]


@dataclass(frozen=True, slots=True)
class Note:
    """Something to say about the run."""

    text: str


@dataclass(frozen=True, slots=True)
class Answered:
    """Evaluation has come so far."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Scored:
    """Evaluation is done."""

    when: When
    accuracy: float
    total: int


Event = Note | Answered | Scored


def train(config: TrainConfig) -> Iterator[Event]:
    """Run a training, yielding what happens; on several processes only the first has something to say.

    Raises:
        UserError: the machine, the data, the model or the output folder do not allow it; said before any
            training where it can be known by then.
    """
    kind, implementation, steps_per_update = precision(config), attention(config), accumulation(config)
    _refuse_other_runs(config)
    files = find_files(config.data_dir)
    records = Records(files.train)
    evaluation = Records(files.evaluation) if files.evaluation else None
    set_seed(config.seed)  # before the adapters are drawn
    processor = load_processor(config.model_name_or_path)
    processor.image_processor.num_crops = config.num_crops or default_crops(records)
    # FlashAttention takes half precision only; the others train from float32 under autocast, as in the recipe.
    dtype = torch.bfloat16 if implementation == "flash_attention_2" else torch.float32
    model = adapt(load_model(config.model_name_or_path, dtype=dtype, attention=implementation), config)
    arguments = training_arguments(config, len(records), kind, steps_per_update)
    encoder = Encoder(processor, config.data_dir / "images")
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Examples(records, encoder, answered=True),
        data_collator=partial(collate, pad_id=processor.tokenizer.pad_token_id),
    )
    if is_first_process():
        _prepare_output(config)
        yield from _describe(config, model, processor, kind, implementation, len(records))
    prompts = Examples(evaluation, encoder, answered=False) if evaluation and is_first_process() else None
    if prompts is not None:
        yield Note(f"scored on {', '.join(path.name for path in files.evaluation)}: {len(prompts)} records")
        yield from _score(config, model, processor, prompts, "before")
    elif is_first_process():
        yield Note("no *_val.jsonl and no labelled *_test.jsonl: nothing is scored")
    try:
        trainer.train()
    except UserError as error:
        raise said_in_worker(error) from error
    trainer.save_model()
    trainer.save_state()
    if is_first_process():
        processor.save_pretrained(config.output_dir)
        yield Note(f"saved to {config.output_dir}")
    if prompts is not None:
        yield from _score(config, model, processor, prompts, "after")


def default_crops(records: Records) -> int:
    """Return the recipe's number of crops: 16, but 4 where records hold several images, as of a video."""
    first = [records[index] for index in range(min(len(records), 100))]
    return 4 if any(len(record.images) > 1 for record in first) else 16


def training_arguments(config: TrainConfig, samples: int, kind: str, steps_per_update: int) -> TrainingArguments:
    """Return the recipe's settings for the Hugging Face Trainer.

    Args:
        config: the run.
        samples: how many records are trained on.
        kind: the precision.
        steps_per_update: forwards per optimizer step.
    """
    total = config.max_steps if config.max_steps > 0 else -(-samples // config.batch_size) * config.num_train_epochs
    warmup = config.warmup_steps if config.warmup_steps is not None else min(FULL_WARMUP, int(total) // WARMUP_SHARE)
    return TrainingArguments(
        output_dir=str(config.output_dir),
        num_train_epochs=config.num_train_epochs,
        max_steps=config.max_steps,
        per_device_train_batch_size=config.batch_size_per_gpu,
        gradient_accumulation_steps=steps_per_update,
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=warmup,
        weight_decay=config.wd,
        optim="adamw_torch",
        adam_beta1=0.9,
        adam_beta2=0.95,
        adam_epsilon=1e-7,
        max_grad_norm=1.0,
        use_cpu=not torch.cuda.is_available(),  # else bf16 is refused there
        bf16=kind == "bf16",
        fp16=kind == "fp16",
        logging_steps=config.logging_steps,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        dataloader_num_workers=config.num_workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        ddp_timeout=86_400,  # the others wait while the first process scores
        disable_tqdm=not config.tqdm,
        seed=config.seed,
        # the reentrant kind trains no adapter
        **{CHECKPOINTING: config.gradient_checkpointing, f"{CHECKPOINTING}_kwargs": {"use_reentrant": False}},
    )


def _refuse_other_runs(config: TrainConfig) -> None:
    if is_adapter(config.model_name_or_path):
        fix = "name its base model, or merge the two first"
        raise UserError("is an adapter, not a whole model", where=config.model_name_or_path, fix=fix)
    if (config.output_dir / FILE_NAME).exists() and not config.overwrite:
        fix = "choose another --output_dir, or add --overwrite"
        raise UserError("holds another run", where=config.output_dir, fix=fix)


def _prepare_output(config: TrainConfig) -> None:
    """Make the output folder, rid of an earlier run's files: a stale adapter would be loaded in place of the model."""
    try:
        config.output_dir.mkdir(parents=True, exist_ok=True)
        for pattern in OUTPUTS:
            for path in config.output_dir.glob(pattern):
                path.unlink()
        config.save(config.output_dir)
    except OSError as error:
        fix = "choose another --output_dir"
        raise UserError(f"cannot write here ({error.strerror})", where=config.output_dir, fix=fix) from error


def _describe(
    config: TrainConfig, model: nn.Module, processor: Phi3VProcessor, kind: str, implementation: str, samples: int
) -> Iterator[Note]:
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    total = sum(weight.numel() for weight in model.parameters())
    strategy = "LoRA" if config.use_lora else "full fine-tuning"
    frozen = ", vision part frozen" if config.freeze_vision_model else ""
    yield Note(f"{strategy}{frozen}: {trainable:,} of {total:,} parameters train")
    device = f"{torch.cuda.device_count()} GPU" if torch.cuda.is_available() else "CPU"
    yield Note(f"{kind} on {device}, {implementation} attention, num_crops {processor.image_processor.num_crops}")
    yield Note(
        f"{samples} samples; a step is {config.batch_size} samples = {config.batch_size_per_gpu} at once"
        f" x {processes()} processes x {accumulation(config)} accumulated"
    )


def _score(
    config: TrainConfig, model: nn.Module, processor: Phi3VProcessor, prompts: Examples, when: When
) -> Iterator[Event]:
    predictions: list[Prediction] = []
    for prediction in predict(
        model, processor, prompts, batch_size=config.eval_batch_size, max_new_tokens=config.max_new_tokens
    ):
        predictions.append(prediction)
        yield Answered(len(predictions), len(prompts))
    write_scores(Path(config.output_dir) / f"eval_{when}.json", predictions)
    yield Scored(when, accuracy(predictions), len(predictions))
