"""The training loop: one run of one stage, from first weights to results."""

import math
import statistics
import time
import warnings
from dataclasses import asdict

import torch
from rich.console import Console

from conf.schema import Checkpoint, CompileMode, Config
from gpt2.config import Norm
from gpt2.model import GPT
from gpt2.sampling import sample
from runner.data.corpus import Corpus
from runner.data.stream import TokenStream, held_out_batches
from runner.training.weights import save_weights
from runner.training import device as machine
from runner.training.checkpoint import Checkpoints
from runner.interruption import AfterStep
from runner.training.optimizer import build_optimizer, learning_rate
from runner.progress import StepProgress
from runner.record import WEIGHTS, Record, Step
from runner.settings import grad_accum_steps
from runner.training.flow_checks import check_flow

# Steps whose time is not counted: caches are cold and memory is touched for the first time.
UNSTEADY_STEPS = 3


class FlowCheckFailed(Exception):
    """A flow check did not hold; the message names it."""


def train(config: Config, corpus: Corpus, record: Record, console: Console) -> None:
    """Train, judge and sample one model, writing everything measured into `record`.

    Goes on from a checkpoint in the record's folder. Ends the record as finished or diverged.
    Raises Interrupted with a checkpoint written, FlowCheckFailed, UsageError for text that is too
    short, and whatever PyTorch raises.
    """
    entered = time.perf_counter()
    train = config.train
    device = machine.find_device(config.device, config.scale.name)
    machine.prepare(device)
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision(train.matmul_precision.name)
    accumulation = grad_accum_steps(config)
    techniques = machine.Techniques(config, device, accumulation)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=techniques.bf16)

    stream = TokenStream(corpus.train, train.micro_batch_size, train.context, config.seed)
    held_out = list(
        held_out_batches(
            corpus.held_out, train.micro_batch_size, train.context, config.evaluation.tokens
        )
    )
    model = GPT(config.model, config.seed).to(device)
    optimizer = build_optimizer(model, train)
    if config.model.norm is Norm.batch:
        console.print(
            "Batch norm takes its statistics over positions, so the training loss sees the future; "
            "only held-out loss can be compared.",
            style="yellow",
            soft_wrap=True,
        )
    environment = record.fields["environment"]
    environment.update(
        device=device.type, device_name=machine.device_name(device), threads=torch.get_num_threads()
    )
    record.fields["model"] = {
        "parameters": model.num_parameters(),
        "flops_per_token": model.flops_per_token(train.context),
    }
    peak_dtype = torch.float32 if machine.why_not_bf16(device) else torch.bfloat16
    peak_flops = machine.peak_flops(device, peak_dtype, config.evaluation.peak_seconds)
    checkpoints = Checkpoints(config, record, model, optimizer, console)
    resumed = checkpoints.resume()
    record.add_time("setup_s", time.perf_counter() - entered)

    if train.flow_checks and not resumed:
        run_flow_checks(model, stream, record, console)
    compile_seconds = 0.0
    if techniques.compile:
        sizes = (train.micro_batch_size, train.context, config.model.n_embd)
        compile_seconds = compile_blocks(
            model, sizes, autocast, train.compile_mode, techniques, console
        )
    record.add_time("compile_s", compile_seconds)
    record.fields.update(applied=techniques.applied, not_applied=techniques.not_applied)
    record.save()

    tokens = train.micro_batch_size * train.context * accumulation
    title, begin = record.fields["stage"]["name"], len(record.steps)
    with StepProgress(console, title, train.steps, begin) as progress, AfterStep() as signals:
        for step in range(begin, train.steps):
            step_started = time.perf_counter()
            lr = learning_rate(step, train)
            for group in optimizer.param_groups:
                group["lr"] = lr

            loss_sum = torch.zeros((), device=device)
            for micro_step in range(accumulation):
                batch = machine.upload(stream.micro_batch(step * accumulation + micro_step), device)
                with autocast:
                    _, loss = model(*batch)
                (loss / accumulation).backward()
                loss_sum += loss.detach()

            # The norm is measured at every stage; without a bound nothing is clipped.
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            grad_norm = torch.nn.utils.get_total_norm(gradients)
            if train.clip_grad_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(
                    model.parameters(), train.clip_grad_norm, grad_norm
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

            # Reading the two numbers waits for the device, so the step's time is whole.
            loss_value, norm_value = loss_sum.item() / accumulation, grad_norm.item()
            step_ms = round((time.perf_counter() - step_started) * 1e3, 3)
            done = Step(step, loss_value, norm_value, lr, step_ms, tokens)
            record.step(done)
            record.add_time("train_s", step_ms / 1e3)
            progress.step(done)
            if not done.is_finite():
                break
            interruption = signals.interruption()
            if interruption or checkpoints.due():
                if config.checkpoint is Checkpoint.best and not interruption:
                    keep_if_best(model, record, held_out_loss(model, held_out, autocast))
                checkpoints.write()
            if interruption:
                raise interruption

    losses = [done.loss for done in record.steps]
    finite = [loss for loss in losses if math.isfinite(loss)]
    steady_ms = median_step_ms(record)
    tokens_per_second = tokens / steady_ms * 1e3
    record.fields["results"] = {
        "worst": max(finite, default=None),
        "best": min(finite, default=None),
        "first": losses[0],
        "last": losses[-1],
        "held_out": None,
        "steps": len(losses),
        "tokens_per_step": tokens,
        "tokens_per_second": tokens_per_second,
        "step_ms": steady_ms,
        "mfu": model.flops_per_token(train.context) * tokens_per_second / peak_flops,
        "peak_flops": peak_flops,
        "peak_flops_dtype": str(peak_dtype).removeprefix("torch."),
        "peak_memory_bytes": machine.peak_memory_bytes(device),
    }
    if not record.steps[-1].is_finite():
        record.fields["diverged_at"] = len(losses) - 1
        what = "gradient norm" if math.isfinite(losses[-1]) else "loss"
        record.end("diverged", f"The {what} is not finite at step {len(losses) - 1}.")
        return

    started = time.perf_counter()
    loss = held_out_loss(model, held_out, autocast)
    record.fields["results"]["held_out"] = loss
    record.add_time("evaluation_s", time.perf_counter() - started)
    wanted = config.sample
    with torch.compiler.set_stance("force_eager"):
        text = sample(model, **asdict(wanted))
    record.fields["samples"] = [{"prompt": wanted.prompt, "seed": wanted.seed, "text": text}]
    if config.checkpoint is Checkpoint.last:
        keep(model, record, loss)
    elif config.checkpoint is Checkpoint.best:
        keep_if_best(model, record, loss)
    record.end("finished")
    checkpoints.discard()


def run_flow_checks(model: GPT, stream: TokenStream, record: Record, console: Console) -> None:
    """Check the model on the first micro batch, showing each check as it is done."""
    device = next(model.parameters()).device
    failed = []
    for check in check_flow(model, *machine.upload(stream.micro_batch(0), device)):
        mark = "[green]✓[/]" if check.passed else "[red]✗[/]"
        console.print(f"{mark} {check.name}: {check.detail}", highlight=False, soft_wrap=True)
        record.fields["checks"].append(asdict(check))
        failed += [] if check.passed else [check]
    record.save()
    if failed:
        facts = "; ".join(f"{check.name}: {check.detail}" for check in failed)
        raise FlowCheckFailed(f"Not so: {facts}.")


def compile_blocks(
    model: GPT,
    sizes_BTC: tuple[int, int, int],
    autocast: torch.autocast,
    mode: CompileMode,
    techniques: machine.Techniques,
    console: Console,
) -> float:
    """Compile the transformer block, once for all layers, and return the seconds it took.

    A forward and backward pass makes compilation happen here and not in a step; it changes no
    weight. Where compilation fails the run goes on eagerly.
    """
    started = time.perf_counter()
    device = next(model.parameters()).device
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    x_BTC = torch.zeros(sizes_BTC, device=device, requires_grad=True)
    torch.compiler.reset()
    torch.compiler.set_stance("default")
    for block in model.h:
        block.compile(dynamic=False, mode=mode.value)
    try:
        with warnings.catch_warnings(), autocast:
            warnings.simplefilter("ignore")
            # Two, since under autocast the second may be given another dtype than the first.
            for block in model.h[:2]:
                x_BTC = block(x_BTC)
            x_BTC.sum().backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # whatever a compiler can raise: none of it may end the run
        if machine.is_out_of_memory(error):
            raise
        torch.compiler.set_stance("force_eager")
        told = " ".join(str(error).split())[:200]
        reason = f"compilation failed ({type(error).__name__}: {told})"
        techniques.withdraw("torch.compile", reason)
        console.print(f"torch.compile is not applied: {reason}.", style="yellow", markup=False)
    model.zero_grad(set_to_none=True)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    machine.synchronise(device)
    return time.perf_counter() - started


@torch.no_grad()
def held_out_loss(
    model: GPT, batches: list[tuple[torch.Tensor, torch.Tensor]], autocast: torch.autocast
) -> float:
    """Mean cross entropy in nats per token over held-out text, padded rows left out."""
    device = next(model.parameters()).device
    model.eval()
    total, count = 0.0, 0
    # The compiled blocks were made for training; judging a model is not worth compiling again.
    with torch.compiler.set_stance("force_eager"):
        for batch in batches:
            with autocast:
                _, loss = model(*machine.upload(batch, device))
            total += loss.item() * batch[1].numel()
            count += batch[1].numel()
    model.train()
    return total / count


def keep_if_best(model: GPT, record: Record, held_out: float) -> None:
    """Keep the weights in the run's folder unless earlier ones had a lower held-out loss."""
    best = record.fields["weights"]
    if best is None or held_out < best["held_out"]:
        keep(model, record, held_out)


def keep(model: GPT, record: Record, held_out: float) -> None:
    """Keep the weights in the run's folder, and note after how many steps they were taken."""
    save_weights(model, record.folder / WEIGHTS)
    record.fields["weights"] = {"steps": len(record.steps), "held_out": held_out}
    record.save()


def median_step_ms(record: Record) -> float:
    """Median milliseconds of the steady steps: without the first ones of each start."""
    starts = [0, *record.fields["resumed_at"]]
    unsteady = {start + i for start in starts for i in range(UNSTEADY_STEPS)}
    times = [done.step_ms for done in record.steps]
    return statistics.median([t for i, t in enumerate(times) if i not in unsteady] or times)
