"""The dictionary that a cluster is compared with: what a reader of a name may see, while changes are under way.

A change whose outcome is not known may still take effect, until the cluster has come to rest. So a name has its
*settled* values (one, unless several changes of it were acknowledged that overlapped) and those that changes under way
may give it.
"""

from collections.abc import Collection, Iterable

from attrs import define, field

Value = bytes | None
"""A version's bytes; None: there is no such file."""

ABSENT: Value = None


@define(eq=False)
class Change:
    """A store or a delete (`source` is None) that gives `name` the value `value`, or a rename from `source`."""

    name: str
    values: set[Value]
    source: str | None = None
    lasting: bool = False
    """Whether it may take effect as long as the catalog has an open implicit plan of its name."""
    over: bool = False
    """Whether its client does nothing more for it."""
    ends: "list[Change]" = field(factory=list)
    """Lasting changes, over when this one began: it ends their plans, if it takes effect."""
    met: set[Value] = field(factory=set)
    """What it may have found under the name that it changes."""
    overlapping: dict[str, set[Value]] = field(factory=dict)
    """By name the values of changes that were acknowledged meanwhile: they may have come after this one."""

    @property
    def names(self) -> list[str]:
        """Return the names whose values change."""
        return [self.name] if self.source is None else [self.name, self.source]


@define(eq=False)
class Reading:
    """A read under way, and all that it may return."""

    name: str
    allowed: set[Value]


@define(eq=False)
class History:
    """See the module."""

    settled: dict[str, set[Value]] = field(factory=dict)
    past: dict[str, set[Value]] = field(factory=dict)
    """All that names ever stood for: what an undelete may bring back."""
    changed: set[str] = field(factory=set)
    """Names of which changes have begun since somebody cleared it."""
    under_way: list[Change] = field(factory=list)
    readings: list[Reading] = field(factory=list)

    def possible(self, name: str) -> set[Value]:
        """Return what a reader may see now."""
        values = set(self.settled.get(name, {ABSENT}))
        for change in self.under_way:
            if change.name == name:
                values |= change.values
            if change.source == name:
                values.add(ABSENT)
        return values

    def names(self) -> list[str]:
        """Return all names that ever were, in order."""
        return sorted({*self.settled, *(change.name for change in self.under_way)})

    # Changes

    def store(self, name: str, value: bytes, lasting: bool = False) -> Change:
        """Begin to store."""
        return self._begin(Change(name, {value}, lasting=lasting, ends=self._over(name)))

    def delete(self, name: str) -> Change:
        """Begin to delete."""
        return self._begin(Change(name, {ABSENT}, ends=self._over(name)))

    def _over(self, name: str) -> list[Change]:
        return [change for change in self.under_way if change.lasting and change.over and change.name == name]

    def rename(self, source: str, name: str) -> Change:
        """Begin to rename."""
        return self._begin(Change(name, set(), source))

    def undelete(self, name: str) -> Change:
        """Begin to bring back what was deleted or replaced under a name."""
        return self._begin(Change(name, self.past.get(name, set()) - {ABSENT}))

    def _begin(self, change: Change) -> Change:
        self.under_way.append(change)
        self.changed.update(change.names)
        self._spread()
        return change

    def acknowledged(self, change: Change) -> None:
        """Note that a change has taken effect: what the name was before it is over."""
        if change not in self.under_way:
            return
        self.under_way.remove(change)
        self.under_way = [other for other in self.under_way if other not in change.ends]
        if change.source is None:
            self._settle(change, change.name, change.values)
        else:
            self._settle(change, change.name, change.values - {ABSENT})
            self._settle(change, change.source, {ABSENT})
        self._spread()

    def _settle(self, change: Change, name: str, values: set[Value]) -> None:
        self.settled[name] = values | change.overlapping.get(name, set())
        for other in self.under_way:
            other.overlapping.setdefault(name, set()).update(values)

    def refused(self, change: Change) -> None:
        """Note that a change has taken no effect and never will."""
        if change in self.under_way:
            self.under_way.remove(change)

    def _spread(self) -> None:
        """Let renames under way carry what they may find, and readings see what there may be."""
        for _ in self.under_way:  # one may lead to the next
            for change in self.under_way:
                if change.source is not None:
                    change.values |= self.possible(change.source) - {ABSENT}
        for change in self.under_way:
            change.met |= self.possible(change.name if change.source is None else change.source)
        for name in self.names():
            self.past.setdefault(name, set()).update(self.possible(name))
        for reading in self.readings:
            reading.allowed |= self.possible(reading.name)

    # Reads

    def begin_reading(self, name: str) -> Reading:
        """Begin to read."""
        reading = Reading(name, self.possible(name))
        self.readings.append(reading)
        return reading

    def end_reading(self, reading: Reading) -> None:
        """End a read."""
        if reading in self.readings:
            self.readings.remove(reading)

    # Rest

    def at_rest(self, seen: Iterable[tuple[str, set[Value]]], planned: Collection[str] = ()) -> None:
        """Note what the names stand for, now that no change can take effect any more but for those still `planned`."""
        self.under_way = [change for change in self.under_way if change.lasting and change.name in planned]
        for name, values in seen:
            self.settled[name] = values
