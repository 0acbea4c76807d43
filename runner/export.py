"""python -m runner.export weights=FILE folder=FOLDER: kept weights for transformers."""

import json
from pathlib import Path

import hydra
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from conf.errors import UsageError
from conf.schema import ExporterConfig
from runner.entry import errors_in_a_sentence
from runner.files import replacing, write_atomically
from runner.messages import fail, say
from runner.mistakes import sentence
from runner.settings import typed


@errors_in_a_sentence()
@hydra.main(version_base="1.3", config_path="../conf", config_name="exporter")
def task(cfg: DictConfig) -> None:
    """Write the folder and exit: 0 success, 2 a user's error."""
    try:
        config = typed(cfg, ExporterConfig)
        folder = Path(config.folder).expanduser()
        export(Path(config.weights).expanduser(), folder)
    except (UsageError, OmegaConfBaseException, OSError) as mistake:
        fail(sentence(mistake))
    say(Console(), f"{folder}: read it with GPT2LMHeadModel.from_pretrained({str(folder)!r})")


def export(weights: Path, folder: Path) -> None:
    """Write kept weights as a folder that `GPT2LMHeadModel.from_pretrained` reads.

    The rows that pad the vocabulary are left out. Raises UsageError for weights that
    GPT2LMHeadModel cannot hold, and OSError if the folder cannot be written.
    """
    from safetensors.torch import save_file

    from gpt2.huggingface import ACTIVATIONS, to_huggingface
    from gpt2.model import GPT
    from runner.training.weights import load_weights

    model = load_weights(weights)
    if not isinstance(model, GPT):
        raise UsageError(f"{weights}: this is a custom model; GPT2LMHeadModel holds only GPT-2.")
    try:
        state = to_huggingface(model)
    except ValueError as error:
        raise UsageError(f"{weights}: {error} Weights of step05 to step10 have it.") from None
    sizes = model.config
    if sizes.tie_word_embeddings:
        del state["lm_head.weight"]  # the embedding; transformers ties it again
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": sizes.n_layer,
        "n_head": sizes.n_head,
        "n_embd": sizes.n_embd,
        "n_positions": sizes.context_length,
        "vocab_size": sizes.vocab_size,
        "activation_function": ACTIVATIONS[sizes.activation],
        "tie_word_embeddings": sizes.tie_word_embeddings,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "config.json", json.dumps(config, indent=2).encode())
    with replacing(folder / "model.safetensors") as temporary:
        save_file(state, temporary, metadata={"format": "pt"})


if __name__ == "__main__":
    task()
