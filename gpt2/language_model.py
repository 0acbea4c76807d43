"""What training, evaluation, sampling and the flow checks need from a model, with defaults.

GPT defines all of it. A custom model is wrapped in `runner.training.custom.Adapted`, or subclasses
LanguageModel and may then override any of it.
"""

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def smoothing(logits_BTV: Tensor, targets_BT: Tensor, share: float, vocab_size: int) -> Tensor:
    """What label smoothing adds to a mean cross entropy: zero, with a gradient.

    A smoothed target is a mixture of the token and, by this share, of all `vocab_size` tokens alike
    (Szegedy et al. 2016). Its cross entropy is larger by `share` times the target's logit less the
    mean logit. Only the gradient is added, so that losses can still be compared. Rows that only pad
    the vocabulary get nothing of a target.
    """
    target_BT = logits_BTV.gather(-1, targets_BT[..., None])[..., 0]
    mean_BT = logits_BTV[..., :vocab_size].mean(-1)
    added = share * (target_BT - mean_BT).float().mean()
    return added - added.detach()


class LanguageModel(nn.Module):
    """A model of the next token. A subclass sets the two numbers and defines `forward`."""

    vocab_size: int  # token ids are below it
    context_length: int  # the longest input, in tokens

    def forward(
        self, idx_BT: Tensor, targets_BT: Tensor | None = None, label_smoothing: float = 0.0
    ) -> tuple[Tensor | None, Tensor | None]:
        """Logits (B, T, V) and None, or with targets the mean cross entropy in nats per token.

        `idx_BT` and `targets_BT` are int64. V is `vocab_size`. In training it may be larger: the
        other rows only pad the vocabulary. With targets the logits may be None. `label_smoothing`
        is given only where it is above 0: see `smoothing`.
        """
        raise NotImplementedError

    def num_parameters(self) -> int:
        """The numbers in all parameters, tied ones counted once."""
        return sum(p.numel() for p in self.parameters())

    def flops_per_token(self, context: int) -> float:
        """Floating-point operations of forward and backward for one token.

        Counted in the matrix products of one pass over one sequence of `context` tokens.
        """
        idx_BT = torch.zeros(1, context, dtype=torch.int64, device=next(self.parameters()).device)
        training = self.training
        self.eval()  # it draws no random numbers and keeps the statistics of a batch norm
        # A fused kernel of attention would not be counted on every device.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            loss = self(idx_BT, idx_BT)[1]
            loss.backward()
        self.zero_grad(set_to_none=True)
        self.train(training)
        return counter.get_total_flops() / context

    def token_embedding(self) -> nn.Module | None:
        """The module whose output depends only on the token; None if none is found."""
        found = (module for module in self.modules() if isinstance(module, nn.Embedding))
        return next((m for m in found if m.num_embeddings >= self.vocab_size), None)

    def layers(self) -> dict[str, nn.Module]:
        """The modules whose outputs are the signal at each depth, in order, by name."""
        return in_depth(self)

    def blocks(self) -> list[nn.Module]:
        """Modules called one after the other: FSDP shards each, and Muon trains their matrices."""
        return []

    def mixes_positions(self) -> bool:
        """Whether a batch norm takes its statistics over positions too, so that tokens leak."""
        return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.modules())


def in_depth(model: nn.Module) -> dict[str, nn.Module]:
    """The members of a model's longest list of modules, or its children if it has no list.

    A list inside another list does not count, such as an MLP's in a list of blocks.
    """
    stacks: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}." if outer else "") for outer in stacks)
        if isinstance(module, nn.ModuleList | nn.Sequential) and not inside:
            stacks[name] = module
    name = max(stacks, key=lambda each: len(list(stacks[each].children())), default="")
    members = stacks.get(name, model).named_children()
    return {f"{name}.{child}" if name else child: module for child, module in members}
