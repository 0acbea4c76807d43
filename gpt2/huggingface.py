"""Conversion of weights to the names and layout of Hugging Face's GPT-2."""

from torch import Tensor

from gpt2.config import Activation, Norm, Positions
from gpt2.model import GPT

# OpenAI's Conv1D layout is (inputs, outputs); nn.Linear has the transpose.
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")

ACTIVATIONS = {Activation.gelu: "gelu_new", Activation.relu2: "relu2"}  # in transformers


def to_huggingface(model: GPT) -> dict[str, Tensor]:
    """A state dict for transformers' GPT2LMHeadModel, padding rows left out.

    Raises ValueError, naming what is missing, for a model that GPT2LMHeadModel cannot hold.
    """
    config = model.config
    needed = {
        "layer norm": config.norm is Norm.layer,
        "a residual stream": config.residual,
        "learned positions": config.positions is Positions.learned,
        "plain queries and keys": not config.qk_norm,
        "an activation without a gate": config.activation in ACTIVATIONS,
        "biases": config.bias,
        "logits without a cap": config.logit_softcap is None,
    }
    if missing := [what for what, is_met in needed.items() if not is_met]:
        raise ValueError(f"Hugging Face's GPT-2 needs {' and '.join(missing)}.")
    state = {}
    for name, tensor in model.state_dict().items():
        tensor = tensor[: config.vocab_size] if name in ("wte.weight", "lm_head.weight") else tensor
        tensor = tensor.t() if name.endswith(TRANSPOSED) else tensor
        theirs = name if name.startswith("lm_head") else f"transformer.{name}"
        state[theirs] = tensor.detach().cpu().contiguous()
    state.setdefault("lm_head.weight", state["transformer.wte.weight"])
    return state
