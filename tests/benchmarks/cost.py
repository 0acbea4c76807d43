"""What an optimizer step of GPT-2 costs in compute, memory and traffic: arithmetic, no measurement.

The model is that of step10: layer norm, a residual stream, flash attention, AdamW. In comments: N
parameters, C channels, V rows of the token embedding, n tokens of a micro batch, P processes.
"""

from dataclasses import dataclass, replace

from conf.schema import Autocast, Config, Sharding
from gpt2.config import GPTConfig
from runner.training.device import DATASHEET_FLOPS

FP32, BF16 = 4, 2  # bytes


class Step:
    """A step of one process; each of `processes` does the same with other tokens.

    The processes share the batch of a configuration.
    """

    def __init__(
        self, config: Config, processes: int = 1, sharding: Sharding = Sharding.none
    ) -> None:
        train, model = config.train, config.model
        assert isinstance(model, GPTConfig)
        self.model, self.context, self.processes = model, train.context, processes
        self.micro_batch_size, self.micro_batches = train.share(processes)
        self.tokens = self.micro_batch_size * self.context  # of a micro batch
        self.is_sharded = processes > 1 and sharding is Sharding.fsdp
        self.bf16, self.compiled = train.autocast is not Autocast.none, train.compile
        # Of one layer: four matrices of 12 C^2, their biases, two norms.
        self.block_parameters = 12 * model.n_embd**2 + 13 * model.n_embd
        # Outside the layers: two embeddings, of which the head shares one, and a norm.
        rows = model.padded_vocab_size + model.context_length + 2
        self.root_parameters = rows * model.n_embd
        self.parameters = model.n_layer * self.block_parameters + self.root_parameters
        # Of all micro batches, as `GPT.flops_per_token` counts them.
        products = self.parameters - model.context_length * model.n_embd
        per_token = 6 * products + 12 * model.n_layer * model.n_embd * self.context
        self.flops = per_token * self.tokens * self.micro_batches

    @property
    def memory(self) -> dict[str, float]:
        """Bytes of one process, by kind, where the gradient of the logits is calculated.

        That is the peak of a step in which n is larger than C.
        """
        shares = self.processes if self.is_sharded else 1
        # FSDP reduces gradients with the last micro batch; until then each process has all of them.
        # The buckets of DistributedDataParallel stay between steps.
        keeps_gradients = self.micro_batches > 1 or (self.processes > 1 and not self.is_sharded)
        gathered = self.root_parameters + self.block_parameters
        casts = self.parameters - (4 * self.model.n_layer + 2) * self.model.n_embd
        casts -= self.model.context_length * self.model.n_embd
        return {
            "weights": FP32 * self.parameters / shares,
            "moments": 2 * FP32 * self.parameters / shares,
            "gradients": FP32 * self.parameters * keeps_gradients,
            "gathered": FP32 * gathered * self.is_sharded,
            "bf16 weights": BF16 * casts * self.bf16,
            "activations": self.activation_bytes,
            # Log probabilities, their gradient and that of the logits, in fp32.
            "logits": 3 * FP32 * self.tokens * self.model.padded_vocab_size,
        }

    @property
    def memory_bytes(self) -> float:
        return sum(self.memory.values())

    @property
    def activation_bytes(self) -> int:
        """What a micro batch keeps for its backward pass, without the logits.

        A layer keeps the residual stream twice, in fp32; what two norms give, of which the compiler
        calculates one again; queries, keys and values; what attention gives, and a number for each
        query and head; and four times as wide, what goes into GELU and comes out.
        """
        model, element = self.model, BF16 if self.bf16 else FP32
        norms = 1 if self.compiled else 2
        layer = (2 * FP32 + (norms + 3 + 1 + 8) * element) * model.n_embd + FP32 * model.n_head
        head = (FP32 + element) * model.n_embd
        return self.tokens * (model.n_layer * layer + head)

    def received_bytes(self, gloo: bool = False) -> float:
        """What each process receives in a step, and sends: rings, gradients and weights in fp32.

        An all-reduce takes 2 (P - 1) / P of what it reduces, an all-gather or a reduce-scatter
        half of that. gloo carries out a reduce-scatter as an all-reduce.
        """
        ring = (self.processes - 1) / self.processes * FP32
        if not self.is_sharded:
            return 2 * ring * self.parameters
        # Gathered for the forward pass and again for the backward one; the root stays in between.
        gathered = 2 * self.model.n_layer * self.block_parameters + self.root_parameters
        reduced = self.parameters * (2 if gloo else 1)
        return ring * (gathered * self.micro_batches + reduced)


# Assumptions, each with its source in scaling.md.j2.
MFU = 0.4
REACHED_BANDWIDTH = 0.8  # of what the hardware can carry
USABLE_MEMORY = 0.9  # the rest is for CUDA, workspaces and fragmentation
GPUS_OF_NODE = 8
LARGEST_MICRO_BATCH = 16


@dataclass(frozen=True)
class Cluster:
    """Nodes of eight GPUs, as data sheets describe them.

    FLOP/s in dense bf16 products and bytes of a GPU; bytes/s in one direction, of a GPU's NVLink
    and of a node's network.
    """

    flops: float
    memory_bytes: float
    nvlink: float
    network: float


H100 = Cluster(DATASHEET_FLOPS["NVIDIA H100 80GB HBM3"], 80e9, nvlink=450e9, network=8 * 50e9)
A100 = Cluster(DATASHEET_FLOPS["NVIDIA A100-SXM4-80GB"], 80e9, nvlink=300e9, network=8 * 25e9)
# H100s whose nodes have 100 Gbit/s each.
ETHERNET = replace(H100, network=12.5e9)
# Tokens, seconds and the cluster of runs of GPT-2 124M on one node.
PUBLISHED = [
    (491_520, 0.562, A100),  # nanoGPT: a step
    (10e9, 90 * 60, A100),  # llm.c
    (10e9, 45 * 60, H100),  # llm.c
]


class Plan:
    """A step on some GPUs of a cluster, and its seconds.

    The MFU is that of whole steps: it stands for memory's traffic too. Of all rings through a node,
    one byte leaves it for each that a GPU receives: a node's network takes the place of a GPU's
    NVLink.
    """

    def __init__(self, cluster: Cluster, step: Step) -> None:
        self.step, self.received = step, step.received_bytes()
        self.fits = step.memory_bytes <= USABLE_MEMORY * cluster.memory_bytes
        several_nodes = step.processes > GPUS_OF_NODE
        link = min(cluster.nvlink, cluster.network) if several_nodes else cluster.nvlink
        self.computing = step.flops / (MFU * cluster.flops)
        self.communication = self.received / (REACHED_BANDWIDTH * link)
        self.share = self.communication / self.computing
        # DistributedDataParallel reduces gradients during the backward pass of the last micro
        # batch, two thirds of its time; FSDP communicates throughout.
        behind = self.computing * (1 if step.is_sharded else 2 / 3 / step.micro_batches)
        self.least = self.computing + max(0.0, self.communication - behind)
        self.most = self.computing + self.communication

    @property
    def seconds(self) -> str:
        """With all the communication hidden that can be, to none."""
        least, most = (f"{seconds:#.2g}".rstrip(".") for seconds in (self.least, self.most))
        return least if least == most else f"{least} to {most}"

    def hours(self, steps: float) -> float:
        """Of so many steps, with no communication hidden."""
        return self.most * steps / 3600
