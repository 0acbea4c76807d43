"""The accuracy on HellaSwag: how often the right one of four endings is the most likely one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from conf.schema import EvaluationConf
from gpt2.model import GPT
from gpt2.tokenizer import tokenizer
from runner.data.hellaswag import Item, read_items
from runner.record import Accuracy
from runner.training.device import upload


@dataclass(frozen=True)
class Row:
    """A text and one of its endings as tokens, of which the last `tokens` are the ending's."""

    ids: list[int]
    tokens: int


@dataclass(frozen=True)
class Question:
    """An item as tokens: a row for each ending, and which one is right."""

    rows: list[Row]
    label: int

    @property
    def longest(self) -> int:
        return max(len(row.ids) for row in self.rows)


def read_questions(evaluation: EvaluationConf, context_length: int) -> list[Question]:
    """What a run is asked: nothing without a file. Raises UsageError for one that is not such."""
    if evaluation.hellaswag is None:
        return []
    return encode(read_items(evaluation.hellaswag, evaluation.hellaswag_items), context_length)


def encode(items: Sequence[Item], context_length: int) -> list[Question]:
    """The items as tokens, the longest first; a text too long for the model loses its beginning."""
    encoded = tokenizer().encode_ordinary
    questions = []
    for item in items:
        text, rows = encoded(item.ctx), []
        for ending in item.endings:
            tokens = encoded(f" {ending}")
            ids = [*text, *tokens][-(context_length + 1) :]
            rows.append(Row(ids, min(len(tokens), len(ids) - 1)))
        questions.append(Question(rows, item.label))
    return sorted(questions, key=lambda question: question.longest, reverse=True)


@torch.no_grad()
def score(
    model: GPT,
    questions: Sequence[Question],
    batch_tokens: int,
    autocast: torch.autocast,
    step: int,
    show: Callable[[int, int], None],
) -> Accuracy:
    """How often the model finds the right ending most likely, by sum and by mean of its losses.

    Only the ending's tokens count, given the text. About `batch_tokens` are computed at once;
    `step` is how many steps the model was trained for, and `show` is called with the questions done
    and with how many there are.
    """
    device = next(model.parameters()).device
    losses = []
    model.eval()
    with torch.compiler.set_stance("force_eager"):
        for batch in _batches(questions, batch_tokens):
            rows = [row for question in batch for row in question.rows]
            padded_BT = pad_sequence([torch.tensor(row.ids) for row in rows], batch_first=True)
            (ids_BT,) = upload((padded_BT,), device)
            with autocast:
                logits_BTV = model(ids_BT[:, :-1])[0]
            for logits_TV, targets_T, row in zip(logits_BTV, ids_BT[:, 1:], rows, strict=True):
                end = len(row.ids) - 1
                ending = slice(end - row.tokens, end)
                loss = F.cross_entropy(
                    logits_TV[ending].float(), targets_T[ending], reduction="sum"
                )
                losses.append(loss)
            show(len(losses) // 4, len(questions))
    model.train()
    sums_QE = torch.stack(losses).view(-1, 4).cpu()
    tokens_QE = torch.tensor([[row.tokens for row in question.rows] for question in questions])
    labels_Q = torch.tensor([question.label for question in questions])
    right = [
        int((losses_QE.argmin(dim=1) == labels_Q).sum())
        for losses_QE in (sums_QE, sums_QE / tokens_QE)
    ]
    return Accuracy(step, len(questions), *(number / len(questions) for number in right))


def _batches(questions: Sequence[Question], tokens: int) -> Iterator[Sequence[Question]]:
    """Questions of like length, the longest first, about so many tokens at a time."""
    done = 0
    while done < len(questions):
        size = max(1, tokens // (4 * questions[done].longest))
        yield questions[done : done + size]
        done += size
