"""What went wrong in a run, by name: from its steps, evaluations and inspections.

Each rule is a function of the evidence that measures, and each threshold stands here with its
reason. What the rules make of planted faults and of healthy runs is measured in docs/findings.md.
"""

import math
import statistics
from collections.abc import Sequence

from conf.schema import Order
from gpt2.config import Activation
from runner.evidence import RULES, Evidence, Facts, error, note, warning
from runner.observations import Finding, Inspection
from runner.record import Run
from runner.rows import Step, Window

# A model that knows nothing has a loss of ln(vocabulary); its first logits' spread adds to it.
FIRST_LOSS_DISTANCE = 1.0
# What an untrained model's head gets: about 1 behind a norm, and 0.03 from GPT-2's embeddings.
WEAK_SIGNAL = 0.05
STRONG_SIGNAL = 100.0
# The last layer's signal over the first one's: about 1, or more, with a residual stream.
COLLAPSED = 0.03
# The first layer's gradient over the largest of the others: about 1 with a residual stream.
VANISHED = 1e-2
EXPLODED = 1e3
# The share of a linear layer's inputs. Behind GELU and a norm no unit stays constant.
DEAD = 0.1
# ReLU turns half of the units of a healthy run off for a sequence.
DEAD_BEHIND_RELU = 0.95
# Update over weights of the median matrix. About 1e-3 is usual in training (Karpathy, 2022,
# makemore, part 3), and AdamW's first steps are larger.
LARGE_UPDATE = 0.3
SMALL_UPDATE = 1e-3
# Nats between the held-out loss and the entropy of single tokens, and its fall since the evaluation
# before, up to which a model has learned how often tokens occur and no more.
NEAR_UNIGRAM = 0.3
STANDS_STILL = 0.02
# Nats between the held-out loss and the last training losses, on a text seen more than once.
OVERFITTED = 0.3
# A step's loss above the median of the ten before it: in nats, and in their standard deviations.
SPIKE_NATS = 1.5
SPIKE_DEVIATIONS = 6.0
# A gradient at later tokens over that at the tokens before: 0, but for the rounding of fp32 where a
# model computes all positions together, as a convolution by FFT does.
LEAK = 1e-5
# The weights of the micro batches' losses in a mean sum to 1.
WEIGHT_ERROR = 0.1
# Of the steps.
ALWAYS = 0.95
RECENT = 10


def find(run: Run, steps: Sequence[Step], windows: Sequence[Window]) -> list[Finding]:
    """What went wrong in a run that took at least one step, the worst first."""
    evidence = Evidence(run, steps, windows)
    findings = [finding for judge in RULES if (finding := judge(evidence))]
    return sorted(findings, key=lambda finding: finding.severity.rank, reverse=True)


@error(
    "The loss or its gradient is not finite at step {step}; before, the loss was up to {worst:.4g} "
    "and the gradient norm up to {norm}.",
    "Lower train.learning_rate, set train.clip_grad_norm, or raise train.warmup_steps.",
)
def diverged(e: Evidence) -> Facts:
    *_, last = e.steps
    if last.is_finite:
        return None
    before = [(step.loss, step.grad_norm) for step in e.steps if step.is_finite]
    worst, norm = map(max, zip(*before, strict=True)) if before else (math.nan, math.nan)
    return {"step": last.step, "loss": last.loss, "worst": worst, "norm": f"{norm:.4g}"}


@error(
    "Later tokens change the prediction of earlier ones: the gradient with respect to them is "
    "{gradient:.2g} of that with respect to earlier tokens, and must be 0.",
    "The losses cannot be compared with others. Mask later positions, and choose a model.norm that "
    "does not mix positions.",
)
def future_leak(e: Evidence) -> Facts:
    leak = max((look.later or 0.0 for look in e.run.looks), default=0.0)
    return {"gradient": leak} if leak > LEAK else None


@error(
    "{copied:.0%} of the targets are the input token itself.",
    "A target is the next token: shift the targets by one.",
)
def targets_not_shifted(e: Evidence) -> Facts:
    copied = max((look.copied for look in e.run.looks), default=0.0)
    return {"copied": copied} if copied >= 0.9 else None


@error(
    "Only {shifted:.0%} of the targets are the input's next token.",
    "Take inputs and targets from the same place in the text.",
)
def labels_unrelated(e: Evidence) -> Facts:
    shifted = min((max(look.shifted, look.copied) for look in e.run.looks), default=1.0)
    return {"shifted": shifted} if shifted <= 0.9 else None


@error(
    "The batches of steps {at} are the same.",
    "The model memorises one batch. Read the next part of the text at every step.",
)
def repeated_batch(e: Evidence) -> Facts:
    looks = e.run.looks
    again = e.passes > 1 and e.run.config["data"]["order"] == Order.in_order.name
    if again or len(looks) < 2 or len({look.batch for look in looks}) > 1:
        return None
    return {"steps": len(looks), "at": ", ".join(str(look.step) for look in looks)}


@error(
    "Step {step} did not change {names}.",
    "Check that they are in the optimizer, need a gradient and get one.",
)
def frozen_parameters(e: Evidence, on_purpose: bool = False) -> Facts:
    rates = {step.step: step.lr for step in e.steps}  # a cosine may end at a rate of 0
    # Behind layers that start at zero the first step moves nothing but by decay.
    hidden = 0 if e.run.config["model"].get("zero_init") else -1
    moved = [look for look in e.trained if rates.get(look.step) and look.step > hidden]
    meant = e.run.model.frozen if "target" in e.run.config["model"] else []
    still = [n for n in moved[-1].frozen if all(n in m.frozen for m in moved)] if moved else []
    frozen = [name for name in still if (name in meant) is on_purpose]
    if not frozen:
        return None
    more = f" and {len(frozen) - 3} more" if len(frozen) > 3 else ""
    names = f"{', '.join(frozen[:3])}{more}"
    return {"parameters": len(frozen), "step": moved[-1].step, "names": names}


@note(
    "The model asks for no gradient of {names}, so they stay as they were drawn.",
    "This is right if you froze them on purpose.",
    name="frozen_parameters",
)
def frozen_on_purpose(e: Evidence) -> Facts:
    return None if frozen_parameters(e) else frozen_parameters(e, on_purpose=True)


@error(
    "The weights of the micro batches' losses in a step sum to {weight:.3g}, and not to 1.",
    "Divide the loss of each micro batch by their number, which train.total_batch_tokens decides.",
)
def accumulation_scale(e: Evidence) -> Facts:
    weights = [look.weight for look in e.trained if look.weight]
    wrong = [weight for weight in weights if abs(weight - 1) > WEIGHT_ERROR]
    return {"weight": wrong[0]} if wrong else None


def above_uniform(loss: float, vocabulary: int) -> float:
    """How far a first loss is above ln(vocabulary), below 0 if under it; 0 if it is near it."""
    above = loss - math.log(vocabulary)
    return 0.0 if abs(above) <= FIRST_LOSS_DISTANCE else above


def _first_loss(e: Evidence) -> Facts:
    size = e.vocabulary
    return {"loss": e.steps[0].loss, "uniform": math.log(size), "vocabulary": f"{size:,}"}


@warning(
    "The first loss is {loss:.4g}, above ln({vocabulary}) = {uniform:.2f}: the untrained model is "
    "confident without a reason.",
    "Draw smaller initial weights with model.init.",
)
def init_loss_high(e: Evidence) -> Facts:
    # Not > 0: a loss that is no number is too high as well.
    return _first_loss(e) if not above_uniform(e.steps[0].loss, e.vocabulary) <= 0 else None


@warning(
    "The first loss is {loss:.4g}, below ln({vocabulary}) = {uniform:.2f}: an untrained model "
    "cannot reach it.",
    "Unless its weights were trained before, look for the targets in the input, "
    "which train.flow_checks does too.",
)
def init_loss_low(e: Evidence) -> Facts:
    return _first_loss(e) if above_uniform(e.steps[0].loss, e.vocabulary) < 0 else None


def _carried(look: Inspection) -> float:
    """The signal of the last layer over that of the first, infinite where it is not known."""
    first, last = look.layers[0].activation, look.layers[-1].activation
    if first is None or last is None:
        return math.inf
    return last / first if first else 0.0


@warning(
    "At step {step} the signal, its standard deviation over the positions, falls from {first} to "
    "{last}: the head cannot tell one token from another.",
    "Change model.init, model.norm or model.residual.",
)
def activations_collapse(e: Evidence) -> Facts:
    weakest = min((look for look in e.run.looks if look.layers), key=_carried, default=None)
    if weakest is None or _carried(weakest) >= COLLAPSED:
        return None
    ends = weakest.layers[0], weakest.layers[-1]
    first, last = (f"{layer.activation:.2g} after {layer.name}" for layer in ends)
    return {"ratio": _carried(weakest), "step": weakest.step, "first": first, "last": last}


@warning(
    "The untrained model's head gets a signal of {activation:.2g}, its standard deviation over the "
    "positions, and hardly tells one token from another.",
    "Set model.norm.",
    name="activations_collapse",
)
def weak_signal(e: Evidence) -> Facts:
    signals = [look.layers[-1].activation for look in e.run.looks if look.step == 0 and look.layers]
    if not signals or signals[0] is None or signals[0] >= WEAK_SIGNAL or activations_collapse(e):
        return None
    return {"activation": signals[0], "step": 0}


@warning(
    "At step {step} the signal after {layer} has a standard deviation of {activation:.3g}.",
    "Draw smaller initial weights with model.init, or lower train.learning_rate.",
)
def activations_explode(e: Evidence) -> Facts:
    layers = [(layer.activation or 0.0, look, layer) for look in e.trained for layer in look.layers]
    activation, look, layer = max(layers, key=lambda seen: seen[0], default=(0.0, None, None))
    if look is None or layer is None or activation <= STRONG_SIGNAL:
        return None
    return {"activation": activation, "step": look.step, "layer": layer.name}


@warning(
    "At step {step} gradients shrink {fold} on their way to {layer}, so early layers hardly learn.",
    "Set model.residual, after model.init and model.norm.",
)
def vanishing_gradients(e: Evidence) -> Facts:
    ratios = []  # of the first layer's gradient to the largest of the others
    for look in e.trained:
        first, *others = [g for layer in look.layers if (g := layer.gradient) is not None] or [0.0]
        if others and max(others) > 0:
            ratios.append((first / max(others), look))
    if not ratios or (least := min(ratios, key=lambda pair: pair[0]))[0] >= VANISHED:
        return None
    ratio, look = least
    fold = f"{1 / ratio:.0e}-fold" if ratio else "to nothing"
    return {"ratio": ratio, "step": look.step, "fold": fold, "layer": look.layers[0].name}


@warning(
    "At step {step} gradients grow {ratio:.0e}-fold from the last layer to the first.",
    "Change model.init or model.norm, or set train.clip_grad_norm.",
)
def exploding_gradients(e: Evidence) -> Facts:
    deep = [(look.step, look.layers) for look in e.trained if len(look.layers) > 2]
    grown = [((ls[0].gradient or 0.0) / g, step) for step, ls in deep if (g := ls[-2].gradient)]
    ratio, step = max(grown, default=(0.0, 0))
    return {"ratio": ratio, "step": step} if ratio > EXPLODED else None


@warning(
    "{share:.0%} of the units of a layer have the same value at all positions of a sequence, and "
    "learn nothing.",
    "Change model.init, or lower train.learning_rate.",
)
def dead_units(e: Evidence) -> Facts:
    # Of the last look: at high rates units of healthy runs are constant for a while.
    alive = [look for look in e.trained[-1:] if look.layers and _carried(look) >= COLLAPSED]
    share = max((look.dead_units or 0.0 for look in alive), default=0.0)
    model = e.run.config["model"]
    is_relu = model.get("activation") == Activation.relu2.name
    acts = "activation" in model.get("knobs", {"activation"})
    return {"share": share} if share > (DEAD_BEHIND_RELU if is_relu and acts else DEAD) else None


@warning(
    "A step changes the median weight matrix by {update:.0%} of its size; about 0.1% is usual.",
    "Lower train.learning_rate, or raise train.warmup_steps.",
)
def learning_rate_high(e: Evidence) -> Facts:
    largest = max((look.update or 0.0 for look in e.trained), default=0.0)
    return {"update": largest} if largest > LARGE_UPDATE else None


@warning(
    "No step changes the median weight matrix by over {update:.2g} of its size; 0.001 is usual.",
    "Raise train.learning_rate.",
)
def learning_rate_low(e: Evidence) -> Facts:
    peak = e.run.settings.learning_rate  # neither in warmup nor at the schedule's floor
    full = {step.step for step in e.steps if step.lr >= peak / 2}
    updates = [look.update for look in e.trained if look.step in full]
    largest = max((math.inf if u is None else u for u in updates), default=math.inf)
    return {"update": largest} if largest < SMALL_UPDATE else None


@warning(
    "The held-out loss stays at {held_out:.2f}, near the entropy of single tokens, {entropy:.2f}: "
    "the model has learned how often tokens occur, and nothing from their context.",
    "The layers lose the signal: change model.init, model.norm or model.residual.",
)
def stuck_at_unigram(e: Evidence) -> Facts:
    entropy = e.run.data.unigram_entropy
    if entropy is None or len(e.held_out) < 2 or abs(e.held_out[-1] - entropy) > NEAR_UNIGRAM:
        return None
    before, last = e.held_out[-2:]
    return None if before - last > STANDS_STILL else {"held_out": last, "entropy": entropy}


@warning(
    "The held-out loss is {held_out:.2f}, and that of the last steps {training:.2f}, after "
    "{passes:.1f} passes over the text.",
    "Train on more text, stop earlier, set model.dropout, or raise train.weight_decay, which helps "
    "a little.",
)
def overfitting(e: Evidence) -> Facts:
    training = statistics.fmean(step.loss for step in e.steps[-RECENT:])
    if e.passes <= 1 or not e.held_out or not e.held_out[-1] - training > OVERFITTED:
        return None
    return {"held_out": e.held_out[-1], "training": training, "passes": e.passes}


SPIKE = f"At step {{step}} the loss is {{above:.2f}} nats above that of the {RECENT} steps before"
AGAINST_SPIKES = "Set train.clip_grad_norm, or raise train.warmup_steps."


@warning(f"{SPIKE}.", AGAINST_SPIKES)
def loss_spike(e: Evidence, recovered: bool = False) -> Facts:
    spikes = []
    for i in range(RECENT, len(e.steps)):
        before = [step.loss for step in e.steps[i - RECENT : i]]
        above = e.steps[i].loss - statistics.median(before)
        limit = max(SPIKE_NATS, SPIKE_DEVIATIONS * statistics.stdev(before))
        if e.steps[i].is_finite and above > limit:
            spikes.append((above, i))
    if not spikes:
        return None
    above, i = max(spikes)
    # One step that the next one is free of may be an odd batch.
    after = [following.loss for following in e.steps[i + 1 : i + 2]]
    is_back = len(spikes) == 1 and any(loss < e.steps[i].loss - above / 2 for loss in after)
    if is_back is not recovered:
        return None
    return {"above": above, "step": e.steps[i].step, "spikes": len(spikes)}


@note(f"{SPIKE}; the next step is back to normal.", AGAINST_SPIKES, name="loss_spike")
def passing_spike(e: Evidence) -> Facts:
    return loss_spike(e, recovered=True)


@note(
    "{share:.0%} of the steps were clipped at a norm of {limit:g}.",
    "Nothing is wrong: updates do not grow with the gradient's size, so clipping changes little.",
)
def always_clipped(e: Evidence) -> Facts:
    limit = e.run.settings.clip_grad_norm or math.inf
    share = sum(step.grad_norm > limit for step in e.steps) / len(e.steps)
    return {"share": share, "limit": limit} if share >= ALWAYS else None
