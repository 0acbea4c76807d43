"""What is imported with what, beyond the contracts of import-linter."""

import importlib.util
from pathlib import Path

import grimp


def test_reports_reach_nothing_that_uses_hydras_private_parts() -> None:
    graph = grimp.build_graph("reports", "runner", "stages", "conf", "gpt2", cache_dir=None)
    reached = {"reports", *graph.find_descendants("reports")}
    reached |= graph.find_upstream_modules("reports", as_package=True)
    assert {"runner.record", "runner.experiments", "conf.files", "stages.plans"} <= reached
    # A package's own file runs before what is in it.
    reached |= {name.rpartition(".")[0] for name in reached} - {""}
    specs = map(importlib.util.find_spec, reached)
    sources = {spec.name: Path(str(spec.origin)).read_text() for spec in specs if spec}
    assert sources.keys() == reached
    assert [name for name, source in sources.items() if "hydra._internal" in source] == []
