"""python -m runner.sample weights=FILE: text from weights that a run kept."""

from dataclasses import asdict
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from conf.schema import SamplerConfig, register
from runner.messages import told_in_a_sentence


@hydra.main(version_base="1.3", config_path="../conf", config_name="sampler")
def task(cfg: DictConfig) -> None:
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, SamplerConfig)
    from gpt2.sampling import sample
    from runner.training.weights import load_weights
    from runner.training.device import find_device

    model = load_weights(Path(config.weights).expanduser())
    model.to(find_device(config.device))
    print(sample(model, **asdict(config.sample)))


def main() -> None:
    """Prints the text and exits: 0 done, 2 a mistake."""
    register()
    with told_in_a_sentence():
        task()


if __name__ == "__main__":
    main()
