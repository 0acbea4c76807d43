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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conf.schema import validator
from gpt2.config import GPTConfig
from gpt2.huggingface import to_huggingface
from gpt2.model import GPT
from runner.data.corpus import Tokens
from runner.data.stream import TokenStream
from runner.record import Run, read_run
from runner.training.device import find_device, peak_memory_bytes
from tests.benchmarks.plain import Batches, PlainGPT, Steps, timed_steps, train_plain


def train_peer(
    name: str, config: dict[str, Any], tokens: Tokens, bf16: bool, device: torch.device
) -> dict[str, Any]:
    """Train a peer from the weights and on the micro batches of the run that `config` describes.

    `config` is the configuration in a run's record, `tokens` what it was trained on. Returns the
    seconds and the loss (nats per token) of each step, and the most memory. Raises ValueError for a
    run that no peer can follow.
    """
    train = config["train"]
    script, _, compiled = name.partition("-")
    if train["total_batch_tokens"] is not None:
        raise ValueError("The peers take one micro batch a step.")
    if script == "plain" and train["steps"] > max(1, train["warmup_steps"]):
        raise ValueError("Past the warmup the plain script's cosine is not the runner's.")
    weights = GPT(validator(GPTConfig).validate_python(config["model"]), config["seed"])
    stream = TokenStream([tokens], train["micro_batch_size"], train["context"], config["seed"])
    batches = [stream.micro_batch(step) for step in range(train["steps"])]
    peer = plain_model(weights) if script == "plain" else huggingface_model(weights)
    del weights  # a peer holds its weights once
    follow = train_plain if script == "plain" else train_huggingface
    seconds, losses = follow(peer, batches, device, bf16, bool(compiled), train)
    memory = peak_memory_bytes(device)
    return {"step_seconds": seconds, "losses": losses, "peak_memory_bytes": memory}


def huggingface_model(weights: GPT) -> Any:
    """transformers' GPT2LMHeadModel with these weights.

    Dropout is off, since losses with it could not be compared, and so is the cache of keys and
    values, which training has no use for: both make it faster than it comes.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    ours = weights.config
    config = GPT2Config(
        vocab_size=ours.vocab_size,
        n_positions=ours.context_length,
        **{name: getattr(ours, name) for name in ("n_embd", "n_layer", "n_head")},
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        use_cache=False,
    )
    model = GPT2LMHeadModel(config)
    model.load_state_dict(to_huggingface(weights))
    return model


def train_huggingface(
    model: Any, batches: Batches, device: torch.device, bf16: bool, compiled: bool, train: Any
) -> Steps:
    """The same loop around it, with torch's AdamW."""
    model.to(device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=train["learning_rate"],
        betas=tuple(train["betas"]),
        eps=train["eps"],
        weight_decay=train["weight_decay"],
    )
    run = torch.compile(model) if compiled else model

    def loss_of(idx: Tensor, targets: Tensor) -> Tensor:
        # The targets are shifted already: labels alone would be shifted a second time.
        return run(input_ids=idx, labels=targets, shift_labels=targets).loss

    return timed_steps(loss_of, optimizer, batches, device, bf16)


def plain_model(weights: GPT) -> PlainGPT:
    """The plain script's model with these weights."""
    c = weights.config
    model = PlainGPT(c.n_layer, c.n_head, c.n_embd, c.context_length, c.padded_vocab_size)
    state = weights.state_dict()
    model.load_state_dict({**state, "lm_head.weight": state["wte.weight"]})
    return model


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
    Path(result).write_text(json.dumps(measured), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
