"""python -m runner.sample weights=FILE: text from weights that a run kept."""

from dataclasses import asdict
from pathlib import Path

import hydra
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from conf.errors import UsageError
from conf.schema import SamplerConfig
from runner.entry import errors_in_a_sentence
from runner.messages import fail
from runner.mistakes import sentence
from runner.settings import typed


@errors_in_a_sentence()
@hydra.main(version_base="1.3", config_path="../conf", config_name="sampler")
def task(cfg: DictConfig) -> None:
    """Print the text and exit: 0 success, 2 a user's error."""
    try:
        config = typed(cfg, SamplerConfig)
        from gpt2.sampling import sample
        from runner.training.device import find_device
        from runner.training.weights import load_weights

        model = load_weights(Path(config.weights).expanduser())
        model.to(find_device(config.device))
        print(sample(model, **asdict(config.sample)))
    except (UsageError, OmegaConfBaseException) as mistake:
        fail(sentence(mistake))


if __name__ == "__main__":
    task()
