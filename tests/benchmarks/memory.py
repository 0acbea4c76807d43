"""The GPU memory of a step of each stage, traced without a GPU, as docs/memory.md and .json.

PyTorch's MemTracker follows a step of fake tensors, which have shapes, types and lifetimes but no
values. Since autograd on a fake CUDA device needs a CUDA build, the fake device is a CPU, and where
CUDA differs in memory it is asked for by name: softmax in fp32 under autocast, AdamW by `foreach`.
"""

from functools import partial, partialmethod
from unittest.mock import patch

import torch
import torch.distributed as dist
from functorch.compile import aot_function, min_cut_rematerialization_partition
from hydra import compose, initialize_config_dir
from torch import Tensor, nn
from torch._dynamo.backends.debugging import boxed_nop
from torch._inductor.decomposition import select_decomp_table
from torch._subclasses import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.func import functional_call
from torch.testing._internal.distributed.fake_pg import FakeStore

from conf.device import CUDA_SCALES
from conf.reading import register
from conf.schema import Autocast, Config, Sharding
from gpt2.config import GPTConfig
from gpt2.model import GPT, Block
from runner.settings import read_settings
from runner.training.optimizer import build_optimizers
from runner.training.parallel import Parallel, synchronise_gradients, whole
from stages.ladder import CONF
from tests.benchmarks.pages import DOCS, save, write

PAGE = DOCS / "memory.md"
GB = 1e9
BIGGEST, *_ = CUDA_SCALES
STAGES = [f"step{number:02}" for number in range(2, 11)]
# Bytes that a GPU of each scale has at least. The last scale takes any; it is meant for 8 GB, of
# which about 7.5 are free.
AVAILABLE = {scale: least or 7.5 * GB for scale, least in CUDA_SCALES.items()}


def configured(stage: str, scale: str, *overrides: str) -> Config:
    """A stage's checked configuration at a scale, as the command line composes it."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return read_settings(compose("config", [f"scale={scale}", f"+stage={stage}", *overrides]))


def peak_bytes(config: Config, processes: int = 1) -> int:
    """The most memory that tensors take up in an optimizer step after the first.

    Of several processes, over which FSDP shards the model, it is that of the first; the others are
    not there, and what they would send is fake too.
    """
    train = config.train
    assert isinstance(config.model, GPTConfig)
    with patch("gpt2.model.initialise"):
        model = GPT(config.model, config.seed)
    bf16 = train.autocast is not Autocast.none
    softmax = partialmethod(torch.Tensor.softmax, dtype=torch.float32)
    fake = FakeTensorMode()
    with fake:
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(torch.empty(parameter.shape)))
    if processes > 1:
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
        Parallel(torch.device("cpu"), 0, processes).spread(model, Sharding.fsdp)
    _, accumulation = train.share(processes)
    with fake, patch.object(torch.Tensor, "softmax", softmax):
        if train.compile:
            _compile_blocks(model)
        (optimizer,) = build_optimizers(model, train)
        for group in optimizer.param_groups:
            group["foreach"] = not train.fused
        sizes = train.micro_batch_size, train.context
        batch = [torch.zeros(sizes, dtype=torch.int64) for _ in range(2)]
        loss_sum = torch.zeros(())

        def micro_step(last: bool) -> None:
            synchronise_gradients(model, last)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = model(*batch)[1]
            (loss / accumulation).backward()
            loss_sum.add_(loss.detach())

        def update() -> None:
            grad_norm = whole(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]))
            if train.clip_grad_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(
                    model.parameters(), train.clip_grad_norm, grad_norm
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        # The first step creates AdamW's moments, and compiles.
        micro_step(last=True)
        update()
        tracker = MemTracker()
        tracker.track_external(model, optimizer, *batch)
        with tracker:
            # All micro batches after the first find gradients, and need the same memory.
            if accumulation > 1:
                micro_step(last=False)
                tracker.reset_mod_stats()
            micro_step(last=True)
            update()
    if processes > 1:
        dist.destroy_process_group()
    return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


def _compile_blocks(model: GPT) -> None:
    """Let each block keep for its backward pass what torch.compile keeps, and run it unfused.

    Every layer shares what is compiled, as in runner/training/compilation.py.
    """
    with torch.device("meta"):
        block = Block(model.config)
    compiled = aot_function(
        lambda parameters, x_BTC: functional_call(block, parameters, (x_BTC,)),
        boxed_nop,
        partition_fn=partial(min_cut_rematerialization_partition, compiler="inductor"),
        decompositions=select_decomp_table(),
    )

    def forward(layer: nn.Module, x_BTC: Tensor) -> Tensor:
        return compiled(dict(layer.named_parameters()), x_BTC)

    for layer in model.h:
        layer.forward = partial(forward, layer)


def by_hand(config: Config) -> dict[str, tuple[str, int]]:
    """The baseline's peak, at the gradient of the logits: what is alive, its formula and bytes."""
    model, train = config.model, config.train
    assert isinstance(model, GPTConfig)
    tokens, channels, layers = train.micro_batch_tokens, model.n_embd, model.n_layer
    vocabulary, context = model.padded_vocab_size, train.context
    block = 12 * channels**2 + 9 * channels
    parameters = (vocabulary + model.context_length) * channels + layers * block
    return {
        "weights and AdamW's two moments": ("3 x 4 x parameters", 12 * parameters),
        "in a block, what the linear layers, the products of attention and GELU take in": (
            "L x 14 x 4 NC",
            layers * 56 * tokens * channels,
        ),
        "in a block, what softmax gives": (
            "L x 4 NHT",
            layers * 4 * tokens * model.n_head * context,
        ),
        "what the head takes in": ("4 NC", 4 * tokens * channels),
        "log probabilities, their gradient and that of the logits": (
            "3 x 4 NV",
            12 * tokens * vocabulary,
        ),
    }


def main() -> None:
    """Trace every stage at every scale, and write docs/memory.md."""
    stages = []
    traced: dict[str, dict[int, int]] = {}  # by stage and micro batch
    for number, stage in enumerate(STAGES, start=2):
        configs = {scale: configured(stage, scale) for scale in CUDA_SCALES}
        peaks = {scale: peak_bytes(each) for scale, each in configs.items()}
        traced[stage] = {configs[s].train.micro_batch_size: peak for s, peak in peaks.items()}
        stages.append({"title": f"{number}. {configs[BIGGEST].stage.title}", "peaks": peaks})
        print(stages[-1]["title"], *(f"{peak / GB:.1f} GB" for peak in peaks.values()), flush=True)
    baseline = configured(STAGES[0], BIGGEST)
    save(PAGE, traced)
    write(
        PAGE,
        torch=torch.__version__,
        context=baseline.train.context,
        micro_batch_sizes=dict(zip(CUDA_SCALES, traced[STAGES[0]], strict=True)),
        available=AVAILABLE,
        stages=stages,
        by_hand=by_hand(baseline),
    )
