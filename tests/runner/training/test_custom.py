"""A model of someone's own is tried out before it is trained."""

import pytest
import torch
from torch import Tensor, nn

from conf.errors import UsageError
from gpt2.language_model import LanguageModel
from runner.training.custom import try_out


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


def test_what_is_tried_out_has_no_gradients_left() -> None:
    model = Net()
    try_out(model, "net:Net", sequences=2, context=8, processes=2)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()
