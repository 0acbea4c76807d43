"""The settings of a report written by `python -m reports`: those of conf/ and what was typed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.errors import UsageError
from conf.schema import LogsConf, ReportConf, StatisticsConf, validator
from stages.ladder import CONF

Rules = TypeVar("Rules", bound=StatisticsConf)


def read_rules(overrides: Sequence[str] = ()) -> ReportConf:
    """The defaults with overrides such as `margin=0.05`. Raises UsageError for a wrong one."""
    return _read("report/default.yaml", ReportConf, overrides)


def read_rules_of_logs(overrides: Sequence[str] = ()) -> LogsConf:
    """The same of a report on logs, such as `target=3.28`."""
    return _read("logs.yaml", LogsConf, overrides)


def _read(file: str, kind: type[Rules], overrides: Sequence[str]) -> Rules:
    from pydantic import ValidationError

    try:
        defaults, typed = OmegaConf.load(CONF / file), OmegaConf.from_dotlist([*overrides])
        if unknown := [str(key) for key in typed if key not in defaults]:
            raise UsageError(f"{unknown[0]} is no setting here; there are {', '.join(defaults)}.")
        values = OmegaConf.to_container(OmegaConf.merge(defaults, typed), resolve=True)
        rules: Rules = validator(kind).validate_python(values)  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        said = str(error).splitlines()[0]
        raise UsageError(f"{' '.join(overrides)}: {said}.") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UsageError(f"{key}={first['input']}: {first['msg']}.") from None
    return rules
