"""A user's mistake is one sentence that says what to change, and nothing is trained."""

import shlex
from pathlib import Path

import pytest

import runner
from conf.errors import UsageError
from tests.conftest import CommandLine

MODEL = """
from torch import nn
from torch.nn.functional import cross_entropy


class Net(nn.Module):
    def __init__(self, mode="", vocabulary=50257):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 8)
        self.head = nn.Linear(8, vocabulary)
        self.mode = mode

    def forward(self, tokens, targets=None):
        logits = self.head(self.embedding(tokens))
        if self.mode == "detached":
            return logits.detach()
        if self.mode == "flat":
            return logits.flatten(0, 1)
        if self.mode == "narrow":
            return logits[..., :100]
        if self.mode == "each" and targets is not None:
            losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
            return logits, losses
        return logits


def number():
    return 3
"""
CUSTOM = "step02 model=custom model.target"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("step99", "There is no stage 'step99'. Did you mean step09?"),
        ("step02 train.stepz=3", "Did you mean train.steps?"),
        ("step02 +train.stepz=3", "Did you mean train.steps?"),
        ("step02 train={stepz:3}", "There is no setting train.stepz. Did you mean train.steps?"),
        ("step02 +trian.steps=3", "There is no setting trian. Did you mean train?"),
        ("step02 +logger=tensorboard", "Multiple values for logger"),
        ("step02 without=step03", "without=step03: write a list: without=[step03]."),
        ("step02 learning_rate=1", "There is no setting learning_rate; use train.learning_rate."),
        ("step02 train.lr=1", "There is no setting train.lr; use train.learning_rate."),
        ("step02 seeds=1,2,3", "There is no setting seeds; use seed."),
        ("step02 seed=1,2,3", "seed=1,2,3 asks for several runs, which runner.sweep trains."),
        ("step02 train.norms=rms", "Did you mean model.norm?"),
        ("step02 model.n_layers=3", "There is no setting model.n_layers; use model.n_layer."),
        (f"{CUSTOM}=own_net:Net n_layers=3", "There is no setting n_layers. conf/schema.py"),
        ("step02 epochs=3", "There is no setting epochs; use train.steps, as epochs are not"),
        (
            f"{CUSTOM}=own_net:Net model.arguments=mode:flat",
            "write names and values, {NAME: VALUE}",
        ),
        (
            f"{CUSTOM}=own_net:Net model.mode=flat",
            "What a custom model takes is in model.arguments",
        ),
        ("step02 seed=1,,2", "seed=1,,2: this cannot be read"),
        ("step02 resume=true", "There is no setting resume. conf/schema.py"),
        ("step02 arguments=3", "There is no setting arguments. conf/schema.py"),
        (f"{CUSTOM}=own_net:Net argument=3", "Did you mean model.arguments?"),
        ("step02 model.arguments.width=3", "This model has no setting model.arguments; another"),
        ("step02 +wandb=true", "There is no setting wandb; use logger=wandb."),
        ("step*", "There is no stage 'step*'. Several at once are glob(step*)."),
        ("step02 steps", "steps: write a setting and its value, such as +stage=step07"),
        ("step02 'data.path=a=b c'", 'this text needs quotes of its own: data.path="a=b c".'),
        ("step02 hydra/launcher=cores", "one after another in this process; leave it out"),
        ("step02 data=pydocs", "There is no data 'pydocs'. Did you mean pydoc?"),
        ("step02 data=text data.path=???", "data.path has no value here"),
        ("step02 experiment=..", "experiment=..: give a plain name"),
        ("step02 experiment=a/b", "experiment=a/b: give a plain name"),
        ("step08 train.clip_grad_norm=1e-12", "so that nothing is learned"),
        ("step02 train.steps=0", "train.steps=0: give a value above 0"),
        ("step02 train.context=65", "model.context_length=64"),
        ("step02 model.n_head=3", "model.n_embd=64 cannot be split among model.n_head=3"),
        ("step02 train.total_batch_tokens=100", "the nearest that are divisible: 64 and 128"),
        ("step02 train.total_batch_tokens=10", "the nearest that are divisible: 64."),
        ("step02 train.learning_rate=nan", "train.learning_rate=nan"),
        ("step02 train.clip_grad_norm=inf", "train.clip_grad_norm=inf"),
        ("step02 device=toaster", "device=toaster"),
        # values of another type
        ("step02 train.steps=many", "train.steps=many: give a whole number."),
        ("step02 train={steps:null}", "train.steps=null: give a whole number."),
        ("step02 evaluation.every=abc", "evaluation.every=abc: give a whole number or null."),
        ("step02 model.norm=group", "model.norm=group: give none, layer, rms or batch."),
        ("step02 train.compile=perhaps", "train.compile=perhaps: give true or false."),
        ("step02 model.n_layer=2.5", "model.n_layer=2.5: give a whole number."),
        ("step02 train.betas=[a,b]", "train.betas[0]=a: give a number."),
        ("step02 train.betas=[0.9,0.9,0.9]", "[0.9, 0.9, 0.9]: give 2 values."),
        ("step02 train.betas=3", "train.betas=3: give a list of 2 values."),
        ("step02 train=3", "train=3: give settings in braces, {NAME: VALUE}."),
        ("step02 data.path=[a]", "data.path=['a']: give a text or null."),
        # what is left out or added, plans and recipes
        ("step05 without=[step09]", "step05 does not contain step09"),
        ("step05 plus=[step33]", "There is no stage 'step33'"),
        ("step05 without=[step04] model.norm=rms", "which was also typed"),
        ("step08 without=[step08] train={clip_grad_norm:1}", "also typed"),
        ("step05 +plan=own", "own"),
        ("step05 plan=factorial", "use +plan=factorial"),
        ("step10 +recipe=gpt2_125m", "There is no recipe 'gpt2_125m'. Did you mean gpt2_124m?"),
        ("step10 +recipe=gpt2_124m train.stepz=3", "Did you mean train.steps?"),
        ("step10 +recipe=gpt2_124m without=[step09]", "A recipe is one run as it is"),
        (
            "step02 data=tinyshakespeare data.path=null data.url=http://127.0.0.1/text",
            "data.url=http://127.0.0.1/text: only https",
        ),
        ("step02 evaluation.hellaswag=/nobody.jsonl", "/nobody.jsonl: No such file"),
        ("step02 evaluation.hellaswag=pyproject.toml", "line 1 is not an item"),
        # models of one's own
        (f"{CUSTOM}=own_nothing:Net", "there is no module own_nothing in"),
        (f"{CUSTOM}=own_net", "name a class or a function of a module"),
        (f"{CUSTOM}=''", "name a class or a function of a module"),
        (f"{CUSTOM}=own_net:Nets", "there is no Nets in"),
        (f"{CUSTOM}=own_net:number", "returns an int, and not an nn.Module"),
        (f"{CUSTOM}=own_net:Net model.arguments.widht=3", "unexpected keyword argument 'widht'"),
        (f"{CUSTOM}=own_net:Net model.arguments.vocabulary=99", "index out of range in self"),
        (f"{CUSTOM}=own_net:Net model.arguments.mode=flat", "returns a Tensor of shape (64,"),
        (f"{CUSTOM}=own_net:Net model.arguments.mode=narrow", "logits of shape (2, 32, 100)"),
        (f"{CUSTOM}=own_net:Net model.arguments.mode=each", "a loss of shape (64,), and not a"),
        (f"{CUSTOM}=own_net:Net model.arguments.mode=detached", "that depends on no parameter"),
        (f"{CUSTOM}=own_net:Net model.knobs.nrom=mode", "there is no model.nrom"),
        (
            f"{CUSTOM}=own_net:Net model.knobs.norm=mode model.arguments.mode=a",
            "does not give another value",
        ),
    ],
)
def test_a_mistake_is_an_error_of_one_sentence(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, said: str
) -> None:
    (tmp_path / "own_net.py").write_text(MODEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    stage, *overrides = shlex.split(asked)
    with pytest.raises(UsageError) as refused:
        runner.train(stage, *words, *overrides)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list((tmp_path / "outputs").rglob("*.*"))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("+stage=step99", "There is no stage 'step99'. Did you mean step09?"),
        ("-m +stage=glob(step99*)", "+stage=glob(step99*) matches nothing"),
        ("-m +stage=step02 train.eps=1e-8,0", "train.eps=0.0: give a value above 0."),
        ("-m +stage=step02 hydra.launcher=joblib", "with a slash: hydra/launcher=NAME."),
        ("stage=step07", "+stage=step07"),
        ("step07", "step07: write a setting and its value, such as +stage=step07"),
        ("+stage=7", "There is no stage '7'. There are dropout"),
        ("+stage=step02 --max-steps 3", "it is a setting, without dashes: train.steps."),
        ("seed=2", "No stage"),
        ("recipe=gpt2_124m", "use +recipe=gpt2_124m"),
        ("+recipe=gpt2_124m +stage=step09", "Multiple values for stage"),
        ("+stage=step02 --foo", "There is no flag --foo"),
        ("+stage=step02 dry_run=perhaps", "dry_run=perhaps: give true or false."),
        (
            "-m +stage=step02 hydra/launcher=cores hydra.launcher.n_job=4",
            "There is no setting hydra.launcher.n_job. Did you mean hydra.launcher.n_jobs?",
        ),
        (
            "-m +stage=step02 hydra.sweeper.max_batch_size=a",
            "hydra.sweeper.max_batch_size=a: give a whole number or null.",
        ),
        ("+stage=step02 data.path=:dog:.txt", ":dog:.txt"),
        ("+stage=step02,step03", "+stage=step02,step03: it asks for several runs; add -m."),
        ('+stage="\'"', "'"),
        ("--config-dir=nowhere +recipe=own", "/nowhere' not found."),
        ("+stage=step02 train.steps=0", "train.steps=0"),
        ("+stage=step02 device=cuda", "device=cuda"),
        ("+stage=step02 data.path=/nobody.txt", "/nobody.txt"),
        ("+stage=step02 output_dir=/proc/here", "/proc/here"),
        ("+stage=step02 model=custom model.target=own:Net", "there is no module own in"),
        ("+stage=step02 train.micro_batch_size=5000", "too short"),
    ],
)
def test_a_users_error_is_one_sentence_and_nothing_is_written(
    command_line: CommandLine, tmp_path: Path, asked: str, said: str
) -> None:
    done = command_line(*shlex.split(asked))
    assert done.returncode == 2
    printed = done.stderr + done.stdout
    assert said in printed
    assert "Error executing" not in printed
    assert "Traceback" not in printed
    assert not list((tmp_path / "outputs").rglob("*.*"))


@pytest.mark.parametrize("arguments", [[], ["weights=/nobody"], ["weights=x", "sample.tokens=0"]])
def test_a_mistake_in_sampling_is_one_sentence(
    command_line: CommandLine, arguments: list[str]
) -> None:
    done = command_line(*arguments, module="runner.sample", smoke=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
