"""A custom model is tried out before it is trained."""

import pytest
import torch
from torch import Tensor, nn

from conf.errors import UsageError
from gpt2.config import Activation, Attention, CustomConfig, Init, Norm, Positions
from gpt2.language_model import LanguageModel
from runner.training.custom import build_model, try_out
from runner.training.optimizer import build_optimizers
from tests.conftest import Settings


class Net(LanguageModel):
    vocab_size, context_length = 97, 8

    def __init__(self, extra: nn.Module | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(97, 4)
        self.extra = extra

    def forward(
        self, idx_BT: Tensor, targets_BT: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        logits_BTV = self.embedding(idx_BT) @ self.embedding.weight.T
        if targets_BT is None:
            return logits_BTV, None
        return None, nn.functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (nn.Linear(2, 2), r"get no gradient \(extra.weight, extra.bias\), and 2 processes"),
        (nn.BatchNorm1d(2, affine=False), "has a batch norm, which takes its statistics"),
    ],
)
def test_several_processes_refuse_what_they_cannot_train(extra: nn.Module, said: str) -> None:
    try_out(Net(extra), "net:Net", sequences=2, context=8)
    with pytest.raises(UsageError, match=said):
        try_out(Net(extra), "net:Net", sequences=2, context=8, processes=2)


class Views(nn.Module):
    """Weights and buffers that are views of others, and one whose rows are one in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50257, 4)
        self.head = nn.Parameter(self.embedding.weight.data.t())
        self.register_buffer("ones", torch.ones(1, 4).expand(8, 4))
        self.register_buffer("turned", self.ones.t()[:, :1])

    def forward(self, tokens: Tensor) -> Tensor:
        return (self.embedding(tokens) * self.ones[: tokens.shape[1]]) @ self.head


def test_what_shares_memory_still_does_and_what_is_expanded_has_its_own() -> None:
    target = f"{__name__}:Views"
    config = CustomConfig(
        "custom", 8, 50257, False, Norm.none, False, Attention.manual, Init.torch, 1.0, 0.0, None,
        Positions.learned, False, Activation.gelu, True, False, True, None, target, {}, {},
    )  # fmt: skip
    net = build_model(config, seed=1).net
    assert net.head.data_ptr() == net.embedding.weight.data_ptr()
    net.ones[0] += 1
    assert net.ones.sum() == 4 + 8 * 4


def test_muon_needs_a_model_that_names_its_blocks(settings: Settings) -> None:
    with pytest.raises(UsageError, match=r"subclass LanguageModel and define blocks\(\)"):
        build_optimizers(Net(nn.Identity()), settings("+stage=muon").train)


def test_muon_takes_no_embedding_and_no_head_that_shares_its_weights(settings: Settings) -> None:
    head = nn.Linear(4, 97)
    net = Net(nn.Sequential(nn.Embedding(9, 4), nn.Conv1d(4, 4, 3), head, nn.Linear(4, 4)))
    head.weight = net.embedding.weight
    net.blocks = lambda: [net.extra]  # type: ignore[method-assign]
    muon, adamw = build_optimizers(net, settings("+stage=muon").train)
    assert [p for group in muon.param_groups for p in group["params"]] == [net.extra[3].weight]
    others = {p for group in adamw.param_groups for p in group["params"]}
    assert others == {*net.parameters()} - {net.extra[3].weight}


def test_a_model_that_takes_no_label_smoothing_is_refused() -> None:
    with pytest.raises(UsageError, match="unexpected keyword argument 'label_smoothing'"):
        try_out(Net(), f"{__name__}:Net", 2, context=8, loss_options={"label_smoothing": 0.1})


def test_what_is_tried_out_has_no_gradients_left() -> None:
    model = Net()
    try_out(model, "net:Net", sequences=2, context=8, processes=2)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()
