"""The peers: what others would train the same model with, from a run's own weights and tokens.

    python -m tests.benchmarks.peers NAME PRECISION RUN_FOLDER CACHE_FOLDER RESULT.json

NAME is huggingface or plain, or one of them with -compiled at its end; PRECISION is fp32 or bf16.
The sizes, the seed, the tokens and the optimizer's numbers are read from the record of a run of
ours, so that no setting is repeated. A peer runs in its own process, as a plain script would, with
none of the runner's settings for the machine.

Losses are compared with the run whose record it was: Hugging Face's peers have the optimizer of
step 7, plain AdamW; the plain scripts have groups, clipping and warmup, which are step 9's.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpt2.config import Attention, GPTConfig, Init, Norm
from gpt2.huggingface import to_huggingface
from gpt2.model import GPT
from runner.data.corpus import Tokens
from runner.data.stream import TokenStream
from runner.record import Run, read_run
from runner.training.device import find_device, peak_memory_bytes
from tests.benchmarks.plain import PlainGPT, train_plain


@dataclass(frozen=True)
class Measured:
    """One training run of a peer: seconds and loss (nats per token) of each step, most memory."""

    step_seconds: list[float]
    losses: list[float]
    peak_memory_bytes: int


def train_peer(
    name: str, config: dict[str, Any], tokens: Tokens, bf16: bool, device: torch.device
) -> Measured:
    """Train a peer from the weights and on the micro batches of the run that `config` describes.

    `config` is the configuration in a run's record, `tokens` what it was trained on. Raises
    ValueError for a run that no peer can follow.
    """
    train = config["train"]
    script, _, compiled = name.partition("-")
    if train["total_batch_tokens"] is not None:
        raise ValueError("The peers take one micro batch a step.")
    if script == "plain" and train["steps"] > max(1, train["warmup_steps"]):
        raise ValueError("Past the warmup the plain script's cosine is not the runner's.")
    weights = GPT(read_model(config["model"]), config["seed"])
    stream = TokenStream([tokens], train["micro_batch_size"], train["context"], config["seed"])
    batches = [stream.micro_batch(step) for step in range(train["steps"])]
    if script == "plain":
        model = plain_model(weights)
        del weights  # a plain script holds its weights once
        seconds, losses = train_plain(
            model,
            batches,
            device,
            bf16,
            compiled=bool(compiled),
            max_lr=train["learning_rate"],
            min_lr=train["learning_rate"] * train["min_lr_ratio"],
            warmup_steps=train["warmup_steps"],
            max_steps=train["steps"],
            weight_decay=train["weight_decay"],
            betas=tuple(train["betas"]),
            clip=train["clip_grad_norm"],
        )
    else:
        model = huggingface_model(weights)
        del weights
        seconds, losses = train_huggingface(model, batches, device, bf16, bool(compiled), train)
    return Measured(seconds, losses, peak_memory_bytes(device))


def huggingface_model(weights: GPT) -> Any:
    """transformers' GPT2LMHeadModel with these weights.

    Dropout is off, since losses with it could not be compared, and so is the cache of keys and
    values, which training has no use for: both make it faster than it comes.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    config = weights.config
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.context_length,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
        )
    )
    model.load_state_dict(to_huggingface(weights))
    return model


def train_huggingface(
    model: Any,
    batches: list[tuple[torch.Tensor, torch.Tensor]],
    device: torch.device,
    bf16: bool,
    compiled: bool,
    train: dict[str, Any],
) -> tuple[list[float], list[float]]:
    """A plain PyTorch loop around it, with torch's AdamW; the seconds and losses of the steps."""
    model.to(device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=train["learning_rate"],
        betas=tuple(train["betas"]),
        eps=train["eps"],
        weight_decay=train["weight_decay"],
    )
    if compiled:
        model = torch.compile(model)
    seconds, losses = [], []
    for idx, targets in batches:
        started = time.perf_counter()
        idx, targets = idx.to(device), targets.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            # The targets are shifted already: labels alone would be shifted a second time.
            loss = model(input_ids=idx, labels=targets, shift_labels=targets).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())  # waits for the device, so the step's time is whole
        seconds.append(time.perf_counter() - started)
    return seconds, losses


def plain_model(weights: GPT) -> PlainGPT:
    """The plain script's model with these weights."""
    config = weights.config
    model = PlainGPT(
        config.n_layer,
        config.n_head,
        config.n_embd,
        config.context_length,
        config.padded_vocab_size,
    )
    state = weights.state_dict()
    model.load_state_dict({**state, "lm_head.weight": state["wte.weight"]})
    return model


def read_model(fields: dict[str, Any]) -> GPTConfig:
    """A model's configuration as a record holds it."""
    kinds = {"norm": Norm, "attention": Attention, "init": Init}
    return GPTConfig(**{k: kinds[k](v) if k in kinds else v for k, v in fields.items()})


def tokens_of(run: Run, cache_dir: Path) -> Tokens:
    """The tokens that a run was trained on, as it left them in the cache."""
    file = cache_dir / "tokens" / str(run.data.sha256) / "00000.uint16"
    return np.memmap(file, dtype=np.uint16, mode="r")[: run.data.train_tokens]


def main(name: str, precision: str, run_folder: str, cache_dir: str, result: str) -> None:
    """Trains one peer with the settings of a run's record and writes the measurements."""
    run = read_run(Path(run_folder))
    device = find_device(run.config["device"])
    tokens = tokens_of(run, Path(cache_dir))
    measured = train_peer(name, run.config, tokens, precision == "bf16", device)
    Path(result).write_text(json.dumps(asdict(measured)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
