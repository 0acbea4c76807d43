"""HellaSwag: the score of examples worked out by hand, and files that hold none."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conf.errors import UsageError
from gpt2.config import GPT2_TOKENS, Norm
from gpt2.model import GPT
from gpt2.tokenizer import tokenizer
from runner.data.hellaswag import Item, read_items
from runner.observations import Accuracy
from runner.training.hellaswag import Ending, encode, score
from runner.training.parallel import Parallel
from tests.runner.training.test_flow_checks import CONFIG

FP32 = torch.autocast("cpu", enabled=False)
ALONE = Parallel(torch.device("cpu"))
ENDINGS = ["good", "a b c", "bad", "x y"]  # of 1, 3, 1 and 2 tokens


def quietly(done: int, total: int) -> None:
    assert done <= total


class Bigrams(nn.Module):
    """A model that knows what may follow a word, with the loss of it in nats, and nothing else.

    The rest of the probability is that of token 0; the loss of all other tokens is infinite.
    """

    def __init__(self, follow: dict[str, dict[str, float]]) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))  # which device it is on
        first = {word: tokenizer().encode(word)[-1] for word in follow}
        self.logits = {
            first[word]: {tokenizer().encode(f" {n}")[0]: -loss for n, loss in after.items()}
            for word, after in follow.items()
        }

    def forward(self, idx_BT: Tensor) -> tuple[Tensor, None]:
        logits_BTV = torch.full((*idx_BT.shape, GPT2_TOKENS), -torch.inf)
        places = zip(idx_BT.flatten().tolist(), logits_BTV.flatten(0, 1), strict=True)
        for word, logits_V in places:
            for token, logit in self.logits.get(word, {}).items():
                logits_V[token] = logit
            logits_V[0] = (1 - logits_V.exp().sum()).log()
        return logits_BTV, None


# After "The": good costs 2 nats; a, b and c one each; bad 2.5; x and y 1.5 each. So good has the
# lowest sum, 2 of (2, 3, 2.5, 3), and "a b c" the lowest mean, 1 of (2, 1, 2.5, 1.5). After "He
# sat." good has both: sums (0.5, 6, 3, 6.5), means (0.5, 2, 3, 3.25).
MODEL = {
    "The": {"good": 2.0, "a": 1.0, "bad": 2.5, "x": 1.5},
    "He sat.": {"good": 0.5, "a": 4.0, "bad": 3.0, "x": 5.0},
    " a": {"b": 1.0},
    " b": {"c": 1.0},
    " x": {"y": 1.5},
}
ITEMS = [
    Item("The", ENDINGS, label=0),  # right by the sum
    Item("The", ENDINGS, label=1),  # right by the mean
    Item("He sat.", ENDINGS, label=0),  # right by both
    Item("The", ENDINGS, label=1),
    Item("He sat.", ENDINGS, label=3),  # right by neither
]


@pytest.mark.parametrize("batch_tokens", [1, 40, 1000])
def test_the_score_is_the_one_worked_out_by_hand(batch_tokens: int) -> None:
    model: Any = Bigrams(MODEL)
    found = score(model, encode(ITEMS, 64), batch_tokens, FP32, 7, ALONE, quietly)
    assert found == Accuracy(step=7, items=5, acc=2 / 5, acc_norm=3 / 5)
    assert found.error == pytest.approx((0.6 * 0.4 / 5) ** 0.5)
    assert model.training


def test_a_text_too_long_for_the_model_loses_its_beginning() -> None:
    (question,) = encode([Item("He sat. The", ENDINGS, 1)], context_length=2)
    the, good, (a, b, c) = (tokenizer().encode(text) for text in (" The", " good", " a b c"))
    assert question.endings[0].ids[-2:] == [*the, *good]
    assert len(question.endings[0].ids) == 3  # two are read, and the last is predicted
    assert question.endings[1] == Ending([a, b, c], 2)


def test_a_gpt_scores_as_one_that_reads_every_ending_alone_in_float64(text_file: Path) -> None:
    words = text_file.read_text(encoding="utf-8").split()
    parts = [" ".join(words[at : at + 2 + at % 9]) for at in range(0, 1500, 10)]
    items = [Item(parts[i], parts[i + 1 : i + 5], i % 4) for i in range(0, 145, 5)]
    model = GPT(replace(CONFIG, vocab_size=GPT2_TOKENS, context_length=64, norm=Norm.layer), 1)
    questions = encode(items, 64)
    found = score(model, questions, 256, FP32, 0, ALONE, quietly)
    model.double().eval()
    right = [0, 0]
    for question in questions:
        losses = []
        for row in question.endings:
            with torch.no_grad():
                log_p = model(torch.tensor([row.ids[:-1]]))[0][0].log_softmax(-1)
            of_text = -log_p[range(len(row.ids) - 1), row.ids[1:]]
            losses.append(of_text[-row.tokens :])
        right[0] += min(range(4), key=lambda i: losses[i].sum()) == question.label
        right[1] += min(range(4), key=lambda i: losses[i].mean()) == question.label
    assert (found.acc, found.acc_norm) == (right[0] / len(items), right[1] / len(items))


def write(path: Path, *items: Any) -> Path:
    path.write_text("".join(f"{json.dumps(item)}\n" for item in items))
    return path


GOOD = {"ind": 24, "activity_label": "Roof", "ctx": "A man", "endings": ENDINGS, "label": 3}


def test_a_file_is_read_with_its_other_fields_left_out(tmp_path: Path) -> None:
    file = write(tmp_path / "items", GOOD, {**GOOD, "label": "1"}, {**GOOD, "label": 7})
    assert read_items(str(file), 2) == [Item("A man", ENDINGS, 3), Item("A man", ENDINGS, 1)]
    with pytest.raises(UsageError, match=r"line 3 is not an item \(label: .* less than 4\)"):
        read_items(str(file), None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it has no item"),
        (b"\xff\xfe", "line 1 is not an item"),
        (b"ctx,endings\n", "line 1 is not an item"),
        (json.dumps({**GOOD, "endings": ENDINGS[:3]}).encode(), "endings: .* at least 4 items"),
        (json.dumps({**GOOD, "ctx": ""}).encode(), "ctx: .* at least 1 character"),
        (json.dumps({"ctx": "A man", "label": 3}).encode(), "endings: Field required"),
    ],
)
def test_another_file_is_refused_in_a_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "items").write_bytes(content)
    with pytest.raises(UsageError, match=f"^evaluation.hellaswag=.*items: .*{said}.*\\.$"):
        read_items(str(tmp_path / "items"), None)
