"""Text drawn from a model, one token at a time."""

import torch

from gpt2.language_model import LanguageModel
from gpt2.tokenizer import encode, tokenizer


@torch.no_grad()  # a model may keep what it computes, and use it in later training
def sample(
    model: LanguageModel, prompt: str, tokens: int, temperature: float, top_k: int, seed: int
) -> str:
    """`prompt` followed by `tokens` tokens, each drawn from the `top_k` most likely.

    The draws depend only on the seed. Padding of the vocabulary is never drawn. The text ends early
    if the logits are not finite.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    training = model.training
    model.eval()
    ids = encode(prompt).tolist()
    for _ in range(tokens):
        idx_BT = torch.tensor([ids[-model.context_length :]], device=device)
        logits_V = model(idx_BT)[0][0, -1].float().cpu()
        if not logits_V.max().isfinite():
            break
        top = (logits_V / temperature).topk(min(top_k, len(logits_V)))
        drawn = torch.multinomial(top.values.softmax(-1), 1, generator=generator)
        ids.append(int(top.indices[drawn]))
    model.train(training)
    return tokenizer().decode(ids)
