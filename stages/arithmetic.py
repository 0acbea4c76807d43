"""The arithmetic of `without` and `plus`: a stage with the changes of steps taken back or added."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError

from conf.errors import UsageError, did_you_mean
from stages.ladder import Stage, flatten, lineage, nest


@dataclass(frozen=True)
class Entry:
    """The change of a step, or one key of it: `step06`, or `step06:model.pad_vocab`."""

    step: str
    key: str

    @classmethod
    def read(cls, text: str) -> "Entry":
        step, _, key = text.partition(":")
        return cls(step, key)

    def __str__(self) -> str:
        return f"{self.step}:{self.key}" if self.key else self.step


@dataclass(frozen=True)
class Ablation:
    """A stage, and the steps whose changes are taken back from it or added to it."""

    stage: str
    without: Sequence[str] = ()
    plus: Sequence[str] = ()

    @classmethod
    def read(cls, stage: str, values: Mapping[str, Any]) -> "Ablation":
        """A stage, with the lists `without` and `plus` from `values`.

        Raises UsageError for a value that is not a list.
        """
        lists = {word: values.get(word, []) for word in ("without", "plus")}
        for word, entries in lists.items():
            if not isinstance(entries, list):
                raise UsageError(f"{word}={entries}: write a list, such as {word}=[step04].")
        return cls(stage, *(tuple(map(str, entries)) for entries in lists.values()))

    @property
    def is_plain(self) -> bool:
        return not (self.without or self.plus)

    def takes_back(self, step: str, key: str) -> bool:
        """Whether `without` names the step, or this one of its settings."""
        return step in self.without or f"{step}:{key}" in self.without

    @property
    def overrides(self) -> list[str]:
        """The overrides that ask for this arithmetic."""
        lists = {"without": self.without, "plus": self.plus}
        return [f"{word}=[{','.join(entries)}]" for word, entries in lists.items() if entries]


@dataclass(frozen=True)
class Ladder:
    """The stages and their base: the settings of the configuration without a stage, by dotted key.

    `typed` are the keys that were set by hand; no stage changes them. `composed` gives all settings
    of a stage whose overlay chooses more than values, such as another model.
    """

    stages: Sequence[Stage]
    base: Mapping[str, Any]
    typed: Collection[str] = field(default=())
    composed: Callable[[str], Mapping[str, Any]] | None = None
    _resolved: dict[str, dict[str, Any]] = field(default_factory=dict, init=False, repr=False)

    def settings(self, asked: Ablation) -> dict[str, Any]:
        """Every setting of the run. Raises UsageError if `without` or `plus` cannot be applied."""
        chain = self.chain(asked.stage)
        names = [stage.name for stage in chain]
        taken_back = list(self._entries("without", asked.without))
        for entry in taken_back:
            if entry.step not in names:
                raise UsageError(
                    f"without=[{entry}]: {asked.stage} does not contain {entry.step}; it contains "
                    f"{', '.join(names)}."
                )
            later = self.set_again(asked, entry)
            if len(later) == len(self._changes(entry)):
                raise UsageError(
                    f"without=[{entry}]: nothing would be taken back, because "
                    f"{', '.join(sorted(set(later.values())))} sets the same keys again; name that "
                    "step too."
                )
        gone = {(entry.step, key) for entry in taken_back for key in self._changes(entry)}
        own = [
            (key, value)
            for stage in chain
            for key, value in self._values(stage).items()
            if (stage.name, key) not in gone
        ]
        for entry in self._entries("plus", asked.plus):
            changes = self._changes(entry)
            if entry.step in names and not gone.issuperset((entry.step, key) for key in changes):
                raise UsageError(f"plus=[{entry}]: {asked.stage} contains {entry} already.")
            own += changes.items()
        whole = {**self.base, **{key: value for key, value in own if key not in self.typed}}
        choosing = [place for place, stage in enumerate(chain) if stage.choices]
        if choosing and self.composed:
            above = (key for stage in chain[choosing[-1] + 1 :] for key in stage.changes)
            decided = {key: whole[key] for key in (*above, *self._decided(asked))}
            whole = {**self.composed(chain[choosing[-1]].name), **decided}
        return whole

    def touched(self, asked: Ablation) -> dict[str, Any]:
        """The settings that the entries decide. Raises UsageError as `settings` does."""
        whole = self.settings(asked)
        return {key: whole[key] for key in self._decided(asked)}

    def _decided(self, asked: Ablation) -> list[str]:
        entries = map(Entry.read, (*asked.without, *asked.plus))
        return [key for entry in entries for key in self._changes(entry)]

    def plain_stage(self, asked: Ablation) -> str | None:
        """The stage that trains with exactly the same settings, if there is one.

        None for a stage without `without` and `plus`.
        """
        if asked.is_plain:
            return None
        whole = self.settings(asked)
        names = (stage.name for stage in self.stages)
        return next((name for name in names if self.settings(Ablation(name)) == whole), None)

    def same_but_for(self, asked: Ablation, inert: Collection[str]) -> str | None:
        """The lowest stage in the chain that differs only in settings without effect."""
        if not inert:
            return None
        if same := self.plain_stage(asked):
            asked = Ablation(same)

        def acting(ablation: Ablation) -> dict[str, Any]:
            return {k: v for k, v in self.settings(ablation).items() if k not in inert}

        names = [stage.name for stage in self.chain(asked.stage)]
        others = (Ablation(name) for name in (names[:-1] if asked.is_plain else names))
        whole = acting(asked)
        return next((other.stage for other in others if acting(other) == whole), None)

    def set_again(self, asked: Ablation, entry: Entry) -> dict[str, str]:
        """The keys of an entry that a later step sets again, with the name of that step.

        They keep the later step's value. Steps that are taken back do not count.
        """
        chain = self.chain(asked.stage)
        after = [s.name for s in chain].index(entry.step) + 1
        return {
            key: stage.name
            for stage in chain[after:]
            for key in self._changes(entry)
            if key in stage.changes and not asked.takes_back(stage.name, key)
        }

    def chain(self, name: str) -> list[Stage]:
        """A stage and its ancestors, the lowest first."""
        parents = {stage.name: stage.parent for stage in self.stages}
        return [self.named(below) for below in reversed(lineage(name, parents))]

    def _entries(self, word: str, texts: Iterable[str]) -> Iterator[Entry]:
        for text in texts:
            entry = Entry.read(text)
            step = self.named(entry.step)
            if step.choices:
                raise UsageError(
                    f"{word}=[{entry}]: {entry.step} chooses {', '.join(step.choices)} in its "
                    "defaults list; only values that its overlay sets can be taken back or added."
                )
            if not self._changes(entry):
                raise UsageError(
                    f"{word}=[{entry}]: {entry.step} does not change {entry.key or 'anything'}; it "
                    f"changes {', '.join(step.changes) or 'nothing'}."
                )
            if twice := [key for key in self._changes(entry) if key in self.typed]:
                raise UsageError(
                    f"{word}=[{entry}] decides {twice[0]}, which was also typed; leave out one of "
                    "the two."
                )
            yield entry

    def _changes(self, entry: Entry) -> dict[str, Any]:
        changes = self._values(self.named(entry.step))
        return {key: changes[key] for key in changes if entry.key in ("", key)}

    def named(self, name: str) -> Stage:
        """The stage of this name. Raises UsageError."""
        found = next((stage for stage in self.stages if stage.name == name), None)
        if found is None:
            names = ", ".join(stage.name for stage in self.stages)
            near = did_you_mean(name, (stage.name for stage in self.stages))
            raise UsageError(f"There is no stage {name!r}.{near} There are {names}.")
        return found

    def _values(self, stage: Stage) -> dict[str, Any]:
        """What a stage changes, with interpolations resolved over the base."""
        if not any("${" in str(value) for value in stage.changes.values()):
            return stage.changes
        if stage.name not in self._resolved:
            whole = OmegaConf.create(nest({**self.base, **stage.changes}))
            try:
                plain: Any = OmegaConf.to_container(whole, resolve=True)
            except InterpolationKeyError as error:
                raise UsageError(f"{str(error).splitlines()[0]} among the settings.") from None
            flat = flatten(plain)
            self._resolved[stage.name] = {key: flat[key] for key in stage.changes}
        return self._resolved[stage.name]
