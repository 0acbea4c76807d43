"""Every command and file of the README, tried in an empty folder at the smallest scale.

Sweeps of many runs are listed and not trained, but for the one over the whole ladder.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tests.conftest import ROOT
from tests.environment import environment

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.partition(" #")[0].strip()
    for language, block in BLOCKS
    if language == "sh"
    for line in block.splitlines()
    # Several machines are in tests/runner/test_torchrun.py, the hub in data/test_hub.py there.
    if line.startswith(("python -m ", "torchrun "))
    and not re.search("--nnodes|fineweb|huggingface", line)
]
# What is typed in the text between the blocks.
IN_TEXT = (
    "python -m runner --config-dir=mine",
    "python -m runner --config-dir=mine +stage=step07b",
    "python -m runner --config-dir=mine +plan=norms",
    "python -m runner +plan=inside_step09",
    "python -m runner --config-dir=mine +recipe=week",
    "python -m reports --config-dir=mine outputs/ladder",
    "python -m runner --cfg job +stage=step02 'plus=[step03]'",
)
SMALL = {"scale": "smoke", "train.steps": "2", "data": "text"}
WHOLE_LADDER = "python -m runner -m '+stage=glob(step*)'"


@pytest.mark.slow
def test_every_command_of_the_readme_works(
    tmp_path: Path, text_file: Path, cache_dir: Path
) -> None:
    assert len(COMMANDS) >= 18
    (tmp_path / "book.txt").write_bytes(text_file.read_bytes())
    (tmp_path / "web").mkdir()
    rows = {"text": text_file.read_text(encoding="utf-8").split("\n\n")}
    parquet.write_table(pyarrow.table(rows), tmp_path / "web" / "a.parquet")
    files = dict(re.findall(r"`(mine/\w+/\w+\.yaml)`.*?```yaml\n(.*?)```", README, re.DOTALL))
    assert [*files] == ["mine/plan/norms.yaml", "mine/stage/step07b.yaml", "mine/recipe/week.yaml"]
    files |= dict(re.findall(r"`(my_model\.py)`.*?```python\n(.*?)```", README, re.DOTALL))
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    variables = environment(GPT2_LADDER_CACHE=str(cache_dir), PYTHONPATH=str(ROOT))

    def tried(command: str, *more: str) -> subprocess.CompletedProcess[str]:
        program, *words = shlex.split(command)
        if program == "torchrun":
            words = ["-m", "torch.distributed.run", *words]
        words = [sys.executable, *words]
        if "runner" in words:
            words += more
            keys = {word.lstrip("+").partition("=")[0] for word in words}
            if keys & {"stage", "plan", "recipe"}:
                words += [f"{key}={value}" for key, value in SMALL.items() if key not in keys]
            if keys & {"stage", "plan", "recipe"} and "data.path" not in keys:
                words.append("data.path=book.txt")
        done = subprocess.run(
            words, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-500:]}{done.stderr[-500:]}"
        return done

    assert WHOLE_LADDER in COMMANDS
    tried(WHOLE_LADDER, "checkpoint=last")
    for copy in ("a", "b"):
        (tmp_path / "outputs" / copy).symlink_to(tmp_path / "outputs" / "ladder")
    (weights,) = tmp_path.glob("outputs/ladder/step10/*/weights.safetensors")
    for command in [*COMMANDS, *IN_TEXT]:
        many = "+plan" in command or " -m " in command.partition("-m runner")[2]
        command = command.replace("LABEL", weights.parent.name)
        done = tried(command, *(["dry_run=true"] if many and "dry_run" not in command else []))
        assert done.stdout.strip(), command
    assert (tmp_path / "outputs/a-and-b/index.html").exists()
    assert (tmp_path / "gpt2-mine/config.json").exists()
    assert "RMS norm" in tried("python -m runner --config-dir=mine").stdout


def test_the_files_that_the_readme_links_to_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) > 8
    assert not [link for link in links if not (ROOT / link).exists()]
