"""python -m runner.sample weights=FILE: text from weights that a run kept."""

import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.schema import SamplerConfig, register
from gpt2.errors import UsageError
from runner.messages import fail, sentence


@hydra.main(version_base="1.3", config_path="../conf", config_name="sampler")
def task(cfg: DictConfig) -> None:
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, SamplerConfig)
    from gpt2.sampling import sample
    from gpt2.weights import load_weights
    from runner.device import find_device

    model = load_weights(Path(config.weights).expanduser())
    model.to(find_device(config.device))
    print(sample(model, **asdict(config.sample)))


def main() -> None:
    """Prints the text and exits: 0 done, 2 a mistake."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    logging.disable(logging.WARNING)
    register()
    try:
        task()
    except KeyboardInterrupt:
        sys.exit(130)
    except (UsageError, HydraException, OmegaConfBaseException, OSError) as error:
        fail(sentence(error))


if __name__ == "__main__":
    main()
