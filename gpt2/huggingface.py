"""Conversion of weights to the names and layout of Hugging Face's GPT-2."""

from torch import Tensor

from gpt2.config import Norm
from gpt2.model import GPT

# OpenAI's Conv1D layout is (inputs, outputs); nn.Linear has the transpose.
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def to_huggingface(model: GPT) -> dict[str, Tensor]:
    """A state dict for transformers' GPT2LMHeadModel, padding rows left out.

    Raises ValueError for a model that GPT2LMHeadModel cannot hold: it needs layer norm and a
    residual stream.
    """
    if model.config.norm is not Norm.layer or not model.config.residual:
        raise ValueError("Hugging Face's GPT-2 needs layer norm and a residual stream.")
    state = {}
    for name, tensor in model.state_dict().items():
        tensor = tensor[: model.config.vocab_size] if name == "wte.weight" else tensor
        tensor = tensor.t() if name.endswith(TRANSPOSED) else tensor
        state[f"transformer.{name}"] = tensor.detach().cpu().contiguous()
    state["lm_head.weight"] = state["transformer.wte.weight"]
    return state
