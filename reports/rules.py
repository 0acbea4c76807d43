"""The settings of a report written by `python -m reports`: conf/report and what was typed."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.errors import UsageError
from conf.schema import ReportConf, validator
from stages.ladder import CONF


def read_rules(overrides: Sequence[str] = ()) -> ReportConf:
    """The defaults with overrides such as `margin=0.05`. Raises UsageError for a wrong one."""
    from pydantic import ValidationError

    try:
        defaults = OmegaConf.load(CONF / "report" / "default.yaml")
        typed = OmegaConf.from_dotlist(list(overrides))
        merged = OmegaConf.merge(OmegaConf.structured(ReportConf), defaults, typed)
        rules: ReportConf = validator(ReportConf).validate_python(OmegaConf.to_container(merged))
    except OmegaConfBaseException as error:
        said = str(error).splitlines()[0]
        raise UsageError(f"{' '.join(overrides)}: {said}.") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UsageError(f"{key}={first['input']}: {first['msg']}.") from None
    return rules
