"""What went wrong in a run, by name: from its steps, its evaluations and the looks into its model.

Each rule is a function of the evidence, and each threshold stands here with its reason. What the
rules make of planted faults and of healthy runs is measured in docs/findings.md.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from conf.schema import Order
from runner.record import Finding, Look, Run, Severity, Step, Window

# A model that knows nothing has a loss of ln(vocabulary); init adds what its first logits vary by.
FIRST_LOSS_DISTANCE = 1.0
# What an untrained model's head gets: about 1 behind a norm, and 0.03 from GPT-2's embeddings.
WEAK_SIGNAL = 0.05
STRONG_SIGNAL = 100.0
# The last layer's signal over the first one's: about 1, or more, with a residual stream.
COLLAPSED = 0.03
# The first layer's gradient over the largest of the others: about 1 with a residual stream.
VANISHED = 1e-2
EXPLODED = 1e3
# The share of a linear layer's inputs. Behind GELU and a norm no unit is constant.
DEAD = 0.1
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


@dataclass(frozen=True)
class Evidence:
    """What is known of a run when it ends."""

    run: Run
    steps: Sequence[Step]
    windows: Sequence[Window]

    @cached_property
    def first(self) -> Look | None:
        """The look at the untrained model."""
        return next((look for look in self.run.looks if look.step == 0), None)

    @cached_property
    def trained(self) -> list[Look]:
        """The looks that saw a step taken."""
        return [look for look in self.run.looks if look.step_norm is not None]

    @cached_property
    def held_out(self) -> dict[int, float]:
        """The held-out loss after so many steps."""
        rounds = groupby(self.windows, key=lambda window: window.step)
        return {step: statistics.fmean(w.loss for w in windows) for step, windows in rounds}

    @property
    def frozen_on_purpose(self) -> list[str]:
        """The parameters that a model of someone's own leaves as they are; GPT-2 has none."""
        return self.run.model.frozen if "target" in self.run.config["model"] else []

    @property
    def vocabulary(self) -> int:
        return int(self.run.config["model"]["vocab_size"])

    @property
    def passes(self) -> float:
        """How often the training text was seen."""
        return sum(step.tokens for step in self.steps) / (self.run.data.train_tokens or math.inf)


def find(run: Run, steps: Sequence[Step], windows: Sequence[Window]) -> list[Finding]:
    """What went wrong in a run that took at least one step, the worst first."""
    evidence = Evidence(run, steps, windows)
    found = [finding for rule in RULES if (finding := rule(evidence))]
    return sorted(found, key=lambda finding: finding.severity.rank, reverse=True)


def _diverged(e: Evidence) -> Finding | None:
    last = e.steps[-1]
    if last.is_finite:
        return None
    finite = [step for step in e.steps if step.is_finite]
    worst = max((step.loss for step in finite), default=math.nan)
    norm = max((step.grad_norm for step in finite), default=math.nan)
    return Finding(
        "diverged",
        Severity.error,
        {"step": last.step, "loss": _number(last.loss), "worst": _number(worst)},
        f"The loss or its gradient is not finite at step {last.step}; before, the loss was up to "
        f"{worst:.4g} and the gradient norm up to {norm:.4g}.",
        "Lower train.learning_rate; step 8, clipping, and step 9, warmup, are for that.",
    )


def _future_leak(e: Evidence) -> Finding | None:
    leak = max((look.later or 0.0 for look in e.run.looks), default=0.0)
    if leak <= LEAK:
        return None
    return Finding(
        "future_leak",
        Severity.error,
        {"gradient": leak},
        "Later tokens change the prediction of earlier ones: the gradient with respect to them is "
        f"{leak:.2g} of that with respect to earlier tokens, and must be 0.",
        "The training loss is too low to be compared; mask later positions, and take a norm that "
        "does not mix positions (step 4).",
    )


def _targets_not_shifted(e: Evidence) -> Finding | None:
    copied = max((look.copied for look in e.run.looks), default=0.0)
    if copied < 0.9:
        return None
    return Finding(
        "targets_not_shifted",
        Severity.error,
        {"copied": copied},
        f"{copied:.0%} of the targets are the input token itself.",
        "A target is the token after; shift the targets by one (step 1).",
    )


def _labels_unrelated(e: Evidence) -> Finding | None:
    shifted = min((max(look.shifted, look.copied) for look in e.run.looks), default=1.0)
    if shifted > 0.9:
        return None
    return Finding(
        "labels_unrelated",
        Severity.error,
        {"shifted": shifted},
        f"Only {shifted:.0%} of the targets are the input's next token.",
        "Take inputs and targets from the same place of the text (step 1).",
    )


def _repeated_batch(e: Evidence) -> Finding | None:
    batches = [look.batch for look in e.run.looks]
    again = e.passes > 1 and e.run.config["data"]["order"] == Order.in_order.name
    if len(batches) < 2 or len(set(batches)) > 1 or again:
        return None
    return Finding(
        "repeated_batch",
        Severity.error,
        {"steps": len(batches)},
        f"The batches of steps {', '.join(str(look.step) for look in e.run.looks)} are the same.",
        "The model learns one batch by heart; move on in the text at every step (step 2).",
    )


def _frozen_parameters(e: Evidence) -> Finding | None:
    rates = {step.step: step.lr for step in e.steps}  # a cosine may end at a rate of 0
    moved = [look for look in e.trained if rates.get(look.step)]
    still = [n for n in moved[-1].frozen if all(n in m.frozen for m in moved)] if moved else []
    frozen = [name for name in still if name not in e.frozen_on_purpose]
    if not still:
        return None
    step = moved[-1].step
    if frozen:
        sentence = f"Step {step} did not change {_listed(frozen)}."
        advice = (
            "Check that they are in the optimizer, need a gradient and get one (steps 1 and 9)."
        )
    else:
        sentence = (
            f"The model asks for no gradient of {_listed(still)}, so they stay as they were drawn."
        )
        advice = "Nothing is wrong where that is meant."
    return Finding(
        "frozen_parameters",
        Severity.error if frozen else Severity.note,
        {"parameters": len(frozen or still), "step": step},
        sentence,
        advice,
    )


def _accumulation_scale(e: Evidence) -> Finding | None:
    wrong = [w for look in e.trained if (w := _or(look.weight, 1)) and abs(w - 1) > WEIGHT_ERROR]
    if not wrong:
        return None
    return Finding(
        "accumulation_scale",
        Severity.error,
        {"weight": wrong[0]},
        f"The weights of the micro batches' losses in a step sum to {wrong[0]:.3g}, and not to 1.",
        "Divide the loss of each micro batch by their number (step 10).",
    )


def _init_loss_high(e: Evidence) -> Finding | None:
    first, uniform = e.steps[0].loss, math.log(e.vocabulary)
    if first - uniform <= FIRST_LOSS_DISTANCE:
        return None
    return Finding(
        "init_loss_high",
        Severity.warning,
        {"loss": _number(first), "uniform": uniform},
        f"The first loss is {first:.4g}, and ln({e.vocabulary:,}) = {uniform:.2f}: the untrained "
        "model is sure of what it cannot know.",
        "Draw smaller weights; step 3, initialisation, is for that.",
    )


def _init_loss_low(e: Evidence) -> Finding | None:
    first, uniform = e.steps[0].loss, math.log(e.vocabulary)
    if not uniform - first > FIRST_LOSS_DISTANCE:
        return None
    return Finding(
        "init_loss_low",
        Severity.warning,
        {"loss": first, "uniform": uniform},
        f"The first loss is {first:.4g}, and ln({e.vocabulary:,}) = {uniform:.2f}: an untrained "
        "model cannot know so much.",
        "Look for targets in the input (step 1, the flow check), unless it was trained before.",
    )


def _activations_collapse(e: Evidence) -> Finding | None:
    weakest = min((look for look in e.run.looks if look.layers), key=_carried, default=None)
    if weakest is None:
        return None
    if _carried(weakest) < COLLAPSED:
        last, first = weakest.layers[-1], weakest.layers[0]
        return Finding(
            "activations_collapse",
            Severity.warning,
            {"ratio": _carried(weakest), "step": weakest.step},
            f"At step {weakest.step} the signal, its standard deviation over the positions, falls "
            f"from {first.activation:.2g} after {first.name} to {last.activation:.2g} after "
            f"{last.name}: the head cannot tell one token from another.",
            "Steps 3 to 5 are for that: initialisation, norm and residual stream.",
        )
    weak = _or(e.first.layers[-1].activation, math.inf) if e.first and e.first.layers else math.inf
    if weak >= WEAK_SIGNAL:
        return None
    return Finding(
        "activations_collapse",
        Severity.warning,
        {"activation": weak, "step": 0},
        f"The untrained model's head gets a signal of {weak:.2g}, its standard deviation over the "
        "positions, and hardly tells one token from another.",
        "Step 4, the norm layer, is for that.",
    )


def _carried(look: Look) -> float:
    """The signal of the last layer over that of the first, infinite where it is not known."""
    first, last = look.layers[0].activation, look.layers[-1].activation
    if first is None or last is None:
        return math.inf
    return last / first if first else 0.0


def _activations_explode(e: Evidence) -> Finding | None:
    found = [
        (_or(layer.activation, 0.0), look.step, layer.name)
        for look in e.trained
        for layer in look.layers
    ]
    if not found or (largest := max(found))[0] <= STRONG_SIGNAL:
        return None
    return Finding(
        "activations_explode",
        Severity.warning,
        {"activation": largest[0], "step": largest[1]},
        f"At step {largest[1]} the signal after {largest[2]} has a standard deviation of "
        f"{largest[0]:.3g}.",
        "Draw smaller weights (step 3), or lower train.learning_rate (step 9).",
    )


def _gradients(e: Evidence) -> tuple[float, Look] | None:
    """The first layer's gradient over the largest of the others, where that is smallest."""
    found = []
    for look in e.trained:
        first, *others = [g for layer in look.layers if (g := layer.gradient) is not None] or [0.0]
        if others and max(others) > 0:
            found.append((first / max(others), look))
    return min(found, key=lambda pair: pair[0], default=None)


def _vanishing_gradients(e: Evidence) -> Finding | None:
    if (found := _gradients(e)) is None or found[0] >= VANISHED:
        return None
    ratio, look = found
    fold = f"{1 / ratio:.0e}-fold" if ratio else "to nothing"
    return Finding(
        "vanishing_gradients",
        Severity.warning,
        {"ratio": ratio, "step": look.step},
        f"At step {look.step} gradients shrink {fold} on their way to {look.layers[0].name}: the "
        "signal dies in depth.",
        "Step 5, the residual stream, is for that, after steps 3 and 4.",
    )


def _exploding_gradients(e: Evidence) -> Finding | None:
    grown = [
        (_or(look.layers[0].gradient, 0.0) / last, look.step)
        for look in e.trained
        if len(look.layers) > 2 and (last := _or(look.layers[-2].gradient, 0.0))
    ]
    if not grown or (largest := max(grown))[0] <= EXPLODED:
        return None
    return Finding(
        "exploding_gradients",
        Severity.warning,
        {"ratio": largest[0], "step": largest[1]},
        f"At step {largest[1]} gradients grow {largest[0]:.0e}-fold from the last layer to the "
        "first.",
        "Step 3, initialisation, and step 4, the norm layer, are for that; step 8 clips them.",
    )


def _dead_units(e: Evidence) -> Finding | None:
    alive = [look for look in e.trained if look.layers and _carried(look) >= COLLAPSED]
    share = max((_or(look.dead_units, 0.0) for look in alive), default=0.0)
    if share <= DEAD:
        return None
    return Finding(
        "dead_units",
        Severity.warning,
        {"share": share},
        f"{share:.0%} of the units of a layer have one value at all positions of a sequence.",
        "They learn nothing; step 3, initialisation, is for that, and a lower learning rate.",
    )


def _learning_rate_high(e: Evidence) -> Finding | None:
    largest = max((_or(look.update, 0.0) for look in e.trained), default=0.0)
    if largest <= LARGE_UPDATE:
        return None
    return Finding(
        "learning_rate_high",
        Severity.warning,
        {"update": largest},
        f"A step changes the median weight matrix by {largest:.0%} of its size; about 0.1% is "
        "usual.",
        "Lower train.learning_rate, or raise train.warmup_steps (step 9).",
    )


def _learning_rate_low(e: Evidence) -> Finding | None:
    peak = e.run.settings.learning_rate  # neither in warmup nor at the schedule's floor
    full = {step.step for step in e.steps if step.lr >= peak / 2}
    looks = [look for look in e.trained if look.step in full]
    largest = max((_or(look.update, math.inf) for look in looks), default=math.inf)
    if largest >= SMALL_UPDATE:
        return None
    return Finding(
        "learning_rate_low",
        Severity.warning,
        {"update": largest},
        f"No step changes the median weight matrix by more than {largest:.2g} of its size; about "
        "0.001 is usual.",
        "Raise train.learning_rate (step 9).",
    )


def _stuck_at_unigram(e: Evidence) -> Finding | None:
    entropy, losses = e.run.data.unigram_entropy, list(e.held_out.values())
    if entropy is None or len(losses) < 2 or abs(losses[-1] - entropy) > NEAR_UNIGRAM:
        return None
    if losses[-2] - losses[-1] > STANDS_STILL:
        return None
    return Finding(
        "stuck_at_unigram",
        Severity.warning,
        {"held_out": losses[-1], "entropy": entropy},
        f"The held-out loss stands still at {losses[-1]:.2f}, near the entropy of single tokens, "
        f"{entropy:.2f}: the model knows how often tokens occur, and not what comes before them.",
        "The signal does not get through the layers; steps 3 to 5 are for that.",
    )


def _overfitting(e: Evidence) -> Finding | None:
    if not e.held_out or e.passes <= 1:
        return None
    training = statistics.fmean(step.loss for step in e.steps[-RECENT:])
    held_out = list(e.held_out.values())[-1]
    if not held_out - training > OVERFITTED:
        return None
    return Finding(
        "overfitting",
        Severity.warning,
        {"held_out": held_out, "training": training, "passes": e.passes},
        f"The held-out loss is {held_out:.2f}, and that of the last steps {training:.2f}, after "
        f"{e.passes:.1f} passes over the text.",
        "Give more text, or stop earlier; weight decay (step 9) helps a little.",
    )


def _loss_spike(e: Evidence) -> Finding | None:
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
    step = e.steps[i].step
    # One step that the next one is free of may be an odd batch.
    after = [following.loss for following in e.steps[i + 1 : i + 2]]
    recovered = len(spikes) == 1 and any(loss < e.steps[i].loss - above / 2 for loss in after)
    return Finding(
        "loss_spike",
        Severity.note if recovered else Severity.warning,
        {"above": above, "step": step, "spikes": len(spikes)},
        f"At step {step} the loss is {above:.2f} nats above that of the {RECENT} steps before"
        f"{', and in the next step it is back' if recovered else ''}.",
        "Step 8, clipping, and step 9, warmup, are for that.",
    )


def _always_clipped(e: Evidence) -> Finding | None:
    limit = e.run.settings.clip_grad_norm
    if limit is None:
        return None
    share = sum(step.grad_norm > limit for step in e.steps) / len(e.steps)
    if share < ALWAYS:
        return None
    return Finding(
        "always_clipped",
        Severity.note,
        {"share": share, "limit": limit},
        f"{share:.0%} of the steps were clipped at a norm of {limit:g}.",
        "AdamW divides by the gradient's size, so little is lost; it is no sign of divergence.",
    )


def _listed(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def _or(number: float | None, other: float) -> float:
    return other if number is None else number


def _number(value: float) -> float | None:
    """A number that JSON has."""
    return value if math.isfinite(value) else None


RULES: tuple[Callable[[Evidence], Finding | None], ...] = (
    _diverged,
    _future_leak,
    _targets_not_shifted,
    _labels_unrelated,
    _repeated_batch,
    _frozen_parameters,
    _accumulation_scale,
    _init_loss_high,
    _init_loss_low,
    _activations_collapse,
    _activations_explode,
    _vanishing_gradients,
    _exploding_gradients,
    _dead_units,
    _learning_rate_high,
    _learning_rate_low,
    _stuck_at_unigram,
    _overfitting,
    _loss_spike,
    _always_clipped,
)
