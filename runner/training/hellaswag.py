"""The accuracy on HellaSwag: how often the right one of four endings is the most likely one."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from conf.schema import EvaluationConf
from gpt2 import tokenizer
from gpt2.language_model import LanguageModel
from runner.data.hellaswag import Item, read_items
from runner.observations import Accuracy
from runner.training.device import upload
from runner.training.parallel import Parallel


@dataclass(frozen=True)
class Ending:
    """A text and one of its endings as tokens, of which the last `tokens` are the ending's."""

    ids: list[int]
    tokens: int


@dataclass(frozen=True)
class Question:
    """An item as tokens: its endings, and which one is right."""

    endings: list[Ending]
    label: int

    @property
    def longest(self) -> int:
        return max(len(ending.ids) for ending in self.endings)


def read_questions(evaluation: EvaluationConf, context_length: int) -> list[Question]:
    """The questions of a run: none without a file. Raises UsageError for an unsuitable file."""
    if evaluation.hellaswag is None:
        return []
    return encode(read_items(evaluation.hellaswag, evaluation.hellaswag_items), context_length)


def encode(items: Sequence[Item], context_length: int) -> list[Question]:
    """The items as tokens, the longest first; a text too long for the model loses its beginning."""
    questions = []
    for item in items:
        text, endings = tokenizer.encode(item.ctx).tolist(), []
        for ending in item.endings:
            tokens = tokenizer.encode(f" {ending}").tolist()
            ids = [*text, *tokens][-(context_length + 1) :]
            endings.append(Ending(ids, min(len(tokens), len(ids) - 1)))
        questions.append(Question(endings, item.label))
    return sorted(questions, key=lambda question: question.longest, reverse=True)


def score(
    model: LanguageModel,
    questions: Sequence[Question],
    batch_tokens: int,
    autocast: torch.autocast,
    step: int,
    parallel: Parallel,
    show: Callable[[int, int], None],
) -> Accuracy:
    """How often the model finds the right ending most likely, by sum and by mean of its losses.

    Only the ending's tokens count, given the text. About `batch_tokens` are computed at once, in
    turns by several processes; `step` is the number of steps trained, and `show` is called with the
    number of questions done and their total.
    """
    batches = list(_batches(questions, batch_tokens))
    # Equally many for each process, since a sharded model's forward pass needs all processes. If
    # they cannot be divided, the first ones are computed twice.
    turns = math.ceil(len(batches) / parallel.size)
    right: dict[int, tuple[int, int]] = {}
    model.eval()
    with torch.compiler.set_stance("force_eager"):
        for turn in range(turns):
            place = (turn * parallel.size + parallel.rank) % len(batches)
            right[place] = _right(model, batches[place], autocast)
            show(len(questions) * (turn + 1) // turns, len(questions))
    model.train()
    of_all = dict(parallel.gather(list(right.items())))
    by_sum, by_mean = (
        sum(rights) / len(questions) for rights in zip(*of_all.values(), strict=True)
    )
    return Accuracy(step, len(questions), by_sum, by_mean)


@torch.no_grad()
def _right(
    model: LanguageModel, questions: Sequence[Question], autocast: torch.autocast
) -> tuple[int, int]:
    """How often the right ending has the lowest sum of losses, and how often the lowest mean."""
    endings = [ending for question in questions for ending in question.endings]
    padded_BT = pad_sequence([torch.tensor(ending.ids) for ending in endings], batch_first=True)
    (ids_BT,) = upload((padded_BT,), next(model.parameters()).device)
    with autocast:
        logits_BTV = model(ids_BT[:, :-1])[0]
    losses = []
    for logits_TV, targets_T, ending in zip(logits_BTV, ids_BT[:, 1:], endings, strict=True):
        end = len(ending.ids) - 1
        own = slice(end - ending.tokens, end)
        losses.append(F.cross_entropy(logits_TV[own].float(), targets_T[own], reduction="sum"))
    sums_QE = torch.stack(losses).view(-1, 4).cpu()
    means_QE = sums_QE / torch.tensor([ending.tokens for ending in endings]).view(-1, 4)
    labels_Q = torch.tensor([question.label for question in questions])
    by_sum, by_mean = ((x_QE.argmin(dim=1) == labels_Q).sum() for x_QE in (sums_QE, means_QE))
    return int(by_sum), int(by_mean)


def _batches(questions: Sequence[Question], tokens: int) -> Iterator[Sequence[Question]]:
    """Questions of similar length, the longest first, about so many tokens at a time."""
    done = 0
    while done < len(questions):
        size = max(1, tokens // (4 * questions[done].longest))
        yield questions[done : done + size]
        done += size
