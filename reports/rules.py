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
        defaults = OmegaConf.load(CONF / file)
        typed = OmegaConf.from_dotlist(list(overrides))
        merged = OmegaConf.merge(OmegaConf.structured(kind), defaults, typed)
        rules: Rules = validator(kind).validate_python(  # type: ignore[arg-type]
            OmegaConf.to_container(merged)
        )
    except OmegaConfBaseException as error:
        said = str(error).splitlines()[0]
        raise UsageError(f"{' '.join(overrides)}: {said}.") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UsageError(f"{key}={first['input']}: {first['msg']}.") from None
    return rules
