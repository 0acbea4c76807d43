"""The training of one stage: set-up, the loop, and the results."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch import nn
from torch.distributed.fsdp import FSDPModule

from conf.schema import Checkpoint, Config
from gpt2.config import CustomConfig
from gpt2.initialisation import generator_for
from gpt2.language_model import LanguageModel
from gpt2.sampling import sample
from gpt2.tokenizer import encode
from runner.data.corpus import Corpus
from runner.data.stream import HeldOut, TokenStream
from runner.findings import find
from runner.folder import RunFolder
from runner.loggers import watch
from runner.messages import say, warn
from runner.observations import DrawnText, Inspection
from runner.progress import item_progress, step_progress
from runner.record import ModelInfo, Status, summarise
from runner.rows import Step
from runner.signals import after_step
from runner.training import device as machine
from runner.training.checkpoint import Checkpoints
from runner.training.compilation import cache_state, compile_model
from runner.training.custom import build_model, try_out
from runner.training.diagnosis import Diagnosis
from runner.training.evaluation import evaluate, mean_and_error
from runner.training.flow_checks import run_flow_checks
from runner.training.hellaswag import Question, read_questions, score
from runner.training.optimizer import build_optimizers, learning_rate
from runner.training.parallel import Parallel, synchronise_gradients, whole
from runner.training.probe import find_products, square_flops
from runner.training.state import seed_everything
from runner.training.techniques import Techniques


@dataclass
class Training:
    """What the loop and the evaluations use."""

    config: Config
    folder: RunFolder
    console: Console
    parallel: Parallel
    model: LanguageModel
    trained: nn.Module  # the model as the steps call it, which averages gradients over processes
    optimizers: list[torch.optim.Optimizer]
    autocast: torch.autocast
    stream: TokenStream
    held_out: HeldOut
    hellaswag: list[Question]
    checkpoints: Checkpoints
    diagnosis: Diagnosis | None
    not_finite: str | None = None  # what ended the steps, if anything did


def train(
    config: Config, corpus: Corpus, folder: RunFolder, console: Console, parallel: Parallel
) -> None:
    """Train, evaluate and sample one model; `folder` gets the results and the final status.

    Resumes from a checkpoint in the folder. Raises Interrupted after a checkpoint is written,
    FlowCheckFailed, UsageError for text that is too short, and any error of PyTorch.
    """
    with timed(folder, "setup_s"):
        techniques = choose_techniques(config, folder, console, parallel)
        training = build(config, corpus, folder, console, parallel, techniques)
        resumed = training.checkpoints.resume()
    check_and_compile(training, techniques, resumed)
    if parallel.is_first:
        watch(config.logger.name, folder, console)
    run_steps(training)
    with training.checkpoints.during_last_evaluation():
        conclude(training)


@contextmanager
def timed(folder: RunFolder, name: str) -> Iterator[None]:
    """A block whose seconds are added to one of the run's timings."""
    started = time.perf_counter()
    yield
    timings = folder.run.timings
    setattr(timings, name, getattr(timings, name) + time.perf_counter() - started)


def choose_techniques(
    config: Config, folder: RunFolder, console: Console, parallel: Parallel
) -> Techniques:
    """Measure the device's matrix products, and choose which techniques are applied on it."""
    run, device = folder.run, parallel.device
    machine.prepare(device)
    cache_dir = Path(config.cache_dir).expanduser()
    say_busy = partial(warn, console)
    run.products = products = parallel.ask_first(
        lambda: find_products(device, run.conditions, cache_dir, say_busy)
    )
    techniques = Techniques(config, device, products)
    torch.set_float32_matmul_precision(techniques.fp32_setting)
    run.environment.device = device.type
    run.environment.device_name = name = machine.device_name(device)
    run.environment.threads = torch.get_num_threads()
    run.environment.processes = parallel.size
    run.results.peak_flops_dtype = products.peak_dtype
    seconds = config.evaluation.peak_seconds
    fastest, run.results.flops_before = square_flops(device, products, seconds)
    run.results.peak_flops = max(products.peak_flops, fastest)
    run.results.datasheet_flops = machine.DATASHEET_FLOPS.get(name, math.nan)
    machine.reset_peak_memory(device)  # the products that were measured may be larger than a model
    return techniques


def build(
    config: Config,
    corpus: Corpus,
    folder: RunFolder,
    console: Console,
    parallel: Parallel,
    techniques: Techniques,
) -> Training:
    """The data, the model and its optimizers; a custom model is tried out before."""
    train, run, context_length = config.train, folder.run, config.model.context_length
    micro_batch_size, _ = train.share(parallel.size)
    part = parallel.rank, parallel.size
    order = config.data.order
    stream = TokenStream(corpus.train, micro_batch_size, train.context, config.seed, *part, order)
    # Not the stage's own context: every stage is judged on the same windows.
    window = min(run.conditions["train.context"], context_length)
    held_out = HeldOut(corpus.held_out, window, config.evaluation.tokens, *part)
    run.data.windows_sha256 = held_out.sha256
    hellaswag = read_questions(config.evaluation, context_length)

    model = build_model(config.model, config.seed)
    tried = model
    if isinstance(config.model, CustomConfig):
        # A second one, since a model may keep what it computes on the CPU.
        tried = build_model(config.model, config.seed)
        prompt = len(encode(config.sample.prompt))
        longest = [question.longest - 1 for question in hellaswag[:1]]
        used = (prompt, window, prompt + config.sample.tokens - 1, *longest)
        lengths = sorted({min(length, context_length) for length in used})
        batch = min(2, micro_batch_size), train.context
        target, options = config.model.target, train.loss_options
        try_out(tried, target, *batch, lengths, parallel.size, options)
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    flops = tried.flops_per_token(train.context)
    run.model = ModelInfo(model.num_parameters(), flops, frozen)
    if model.mixes_positions():
        warn(console, "Batch norm leaks later tokens in training; compare only the held-out loss.")

    trained = parallel.spread(model, train.sharding)
    run.environment.sharding = train.sharding.name if isinstance(model, FSDPModule) else None
    optimizers = build_optimizers(model, train)
    autocast = torch.autocast(parallel.device.type, torch.bfloat16, enabled=techniques.bf16)
    checkpoints = Checkpoints(config, folder, model, optimizers, parallel, console)
    # Of a sharded model no process has all weights to compare.
    looked_into = config.diagnose and not run.environment.sharding
    diagnosis = Diagnosis(model, trained, autocast) if looked_into else None
    return Training(
        config, folder, console, parallel, model, trained, optimizers, autocast, stream, held_out,
        hellaswag, checkpoints, diagnosis,
    )  # fmt: skip


def check_and_compile(training: Training, techniques: Techniques, resumed: bool) -> None:
    """The flow checks of a run that begins and the compilation of its model, if configured."""
    config, folder, console = training.config, training.folder, training.console
    model, train, run, device = training.model, config.train, folder.run, training.parallel.device
    progress = Console(quiet=config.quiet)
    if train.flow_checks and not resumed:
        # A sharded model cannot be copied, as the checks do; a new one has the same weights.
        checked = model
        if run.environment.sharding:
            checked = build_model(config.model, config.seed).to(device)
        batch = machine.upload(training.stream.micro_batch(0), device)
        run_flow_checks(checked, batch, folder, progress)
    if techniques.compile:
        say(progress, f"{run.stage.name}: compiling ...")
        micro_batch_size, _ = train.share(training.parallel.size)
        with timed(folder, "compile_s"):
            why_not = compile_model(model, train, micro_batch_size, training.autocast)
        if why_not:
            techniques.withdraw("torch.compile", why_not)
            warn(console, f"torch.compile is not applied: {why_not}.")
        else:
            run.compile_cache = "cold" if run.compile_cache == "cold" else cache_state()
    run.applied, run.not_applied = techniques.applied, techniques.not_applied
    run.attention_kernel = techniques.attention_kernel
    folder.save()


def run_steps(training: Training) -> None:
    """The loop over the remaining optimizer steps, each written into the run's folder."""
    config, folder, parallel = training.config, training.folder, training.parallel
    train, device, autocast = config.train, parallel.device, training.autocast
    model, optimizers, checkpoints = training.trained, training.optimizers, training.checkpoints
    begin, title = len(folder.steps), folder.run.stage.name
    _, accumulation = train.share(parallel.size)
    shown = step_progress(training.console, title, train.steps, begin, config.quiet)
    with shown as show, after_step() as interrupted:
        for step in range(begin, train.steps):
            look = look_into(training)
            # What a model draws in a step depends on no step, look or evaluation before it.
            drawn = generator_for(config.seed, f"step {step}, rank {parallel.rank}")
            seed_everything(drawn.initial_seed())
            started = time.perf_counter()
            lr = learning_rate(step, train)
            for group in (group for each in optimizers for group in each.param_groups):
                group["lr"] = lr

            loss_sum = torch.zeros((), device=device)
            for micro_step in range(accumulation):
                synchronise_gradients(model, last=micro_step + 1 == accumulation)
                batch = training.stream.micro_batch(step * accumulation + micro_step)
                with autocast:
                    loss = model(*machine.upload(batch, device), **train.loss_options)[1]
                (loss / accumulation).backward()
                loss_sum += loss.detach()

            # Every stage measures the norm; only some clip it. A list would keep the gradients in
            # memory until the next step has its own.
            gradients = (p.grad for p in model.parameters() if p.grad is not None)
            grad_norm = whole(torch.nn.utils.get_total_norm(gradients))
            if train.clip_grad_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(
                    model.parameters(), train.clip_grad_norm, grad_norm
                )
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

            # Reading the two numbers waits for the device, so the time is that of the whole step.
            loss_value = parallel.mean(loss_sum).item() / accumulation
            norm_value = grad_norm.item()
            step_ms = round((time.perf_counter() - started) * 1e3, 3)
            tokens = train.micro_batch_tokens * train.grad_accum_steps
            done = Step(step, loss_value, norm_value, lr, step_ms, tokens)
            folder.add_step(done)
            folder.run.timings.train_s += step_ms / 1e3
            show(done)
            if look and training.diagnosis:
                training.diagnosis.finish(look, norm_value)
            if not done.is_finite:
                training.not_finite = "gradient norm" if math.isfinite(loss_value) else "loss"
                break
            interruption, due = parallel.agree(interrupted(), checkpoints.due())
            ended = step + 1 == train.steps
            keep = due and not interruption and config.checkpoint is Checkpoint.best
            if not ended and (keep or config.evaluation.is_due(step + 1)):
                held_out_loss, _ = measure_held_out(training)
                if not math.isfinite(held_out_loss):
                    training.not_finite = "held-out loss"
                    break
                if keep:
                    checkpoints.keep(held_out_loss)
            if not ended and config.evaluation.is_due(step + 1):
                score_and_sample(training)
                interruption, due = parallel.agree(interruption or interrupted(), due)
            if interruption or due:
                checkpoints.write()
            if interruption:
                raise interruption


def look_into(training: Training) -> Inspection | None:
    """An inspection before the next step if one is due: first, last, and at evaluations."""
    config, folder, parallel = training.config, training.folder, training.parallel
    step, last = len(folder.steps), config.train.steps - 1
    due = step in (0, last) or config.evaluation.is_due(step) or not folder.steps[-1].is_finite
    if training.diagnosis is None or not due:
        return None
    _, accumulation = config.train.share(parallel.size)
    batch = machine.upload(training.stream.micro_batch(step * accumulation), parallel.device)
    try:
        with timed(folder, "diagnosis_s"):
            look = training.diagnosis.look(step, *batch)
    except Exception as error:  # a custom model may refuse in any way; training goes on
        training.diagnosis = None
        reason = f"The model cannot be looked into ({type(error).__name__}); diagnose=false."
        warn(training.console, reason)
        return None
    folder.run.looks.append(look)
    return look


def measure_held_out(training: Training) -> tuple[float, float]:
    """The loss on the held-out windows, written into the folder, and its standard error."""
    config, folder, held_out = training.config, training.folder, training.held_out
    size, steps = config.train.micro_batch_size, len(folder.steps)
    with timed(folder, "evaluation_s"):
        own = evaluate(training.model, held_out, size, training.autocast, steps)
        by_place = {window.first_token: window for window in training.parallel.gather(own)}
        windows = [by_place[first] for first in held_out.starts]
        folder.add_windows(windows)
    return mean_and_error(windows)


def score_and_sample(training: Training, at_end: bool = False) -> None:
    """The other parts of an evaluation, written into the folder: HellaSwag and a sample."""
    config, folder, questions = training.config, training.folder, training.hellaswag
    model, autocast, steps = training.model, training.autocast, len(folder.steps)
    with timed(folder, "evaluation_s"):
        if questions:
            show = item_progress(training.console, "HellaSwag", config.quiet)
            tokens = config.train.micro_batch_tokens
            accuracy = score(model, questions, tokens, autocast, steps, training.parallel, show)
            folder.add_accuracy(accuracy)
        if config.evaluation.samples or at_end:
            with torch.compiler.set_stance("force_eager"):
                text = sample(model, **asdict(config.sample))
            folder.add_sample(DrawnText(config.sample.prompt, config.sample.seed, text, steps))


def conclude(training: Training) -> None:
    """Close the record with the results of the steps, the evaluations, a sample and weights."""
    run, folder, parallel = training.folder.run, training.folder, training.parallel
    run.results = results = summarise(folder.steps, run.resumed_at, run.results)
    results.peak_memory_bytes = max(parallel.gather([machine.peak_memory_bytes(parallel.device)]))
    assert run.products is not None
    seconds = training.config.evaluation.peak_seconds
    fastest, results.flops_after = square_flops(parallel.device, run.products, seconds)
    reached = run.model.flops_per_token * results.tokens_per_second / parallel.size
    # The machine may have been busy at every measurement, and not while it trained.
    results.peak_flops = max(results.peak_flops, fastest, reached)
    results.mfu = reached / results.peak_flops
    results.datasheet_mfu = reached / results.datasheet_flops
    if not training.not_finite:
        results.held_out, results.held_out_error = measure_held_out(training)
        if not math.isfinite(results.held_out):  # the last step has changed the weights
            training.not_finite = "held-out loss"
    if what := training.not_finite:
        run.diverged_at = folder.steps[-1].step
        look_into(training)
        run.findings = find(run, folder.steps, folder.windows)
        folder.end(Status.diverged, f"The {what} is not finite at step {run.diverged_at}.")
        return

    score_and_sample(training, at_end=True)
    for accuracy in run.hellaswag[-1:]:
        results.hellaswag_acc, results.hellaswag_acc_norm = accuracy.acc, accuracy.acc_norm
    training.checkpoints.keep(results.held_out)
    run.findings = find(run, folder.steps, folder.windows)
    folder.end(Status.finished)
    training.checkpoints.remove()
