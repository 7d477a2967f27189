"""The key/value half of the registry's state, after Consul's state store; no I/O.

Every write happens at an index handed in by ``state.State``, higher than all before. Deleted
keys leave tombstones so that the index of a prefix never goes back.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

MAX_VALUE_BYTES = 512 * 1024
"""Consul's kv_max_value_size."""
MAX_OPERATIONS = 64
"""Consul's limit for one transaction."""
MAX_TOMBSTONES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    key: str
    value: bytes
    flags: int
    create_index: int
    modify_index: int


class Verb(StrEnum):
    SET = "set"
    CAS = "cas"
    GET = "get"
    GET_TREE = "get-tree"
    DELETE = "delete"
    DELETE_CAS = "delete-cas"
    DELETE_TREE = "delete-tree"
    CHECK_INDEX = "check-index"
    CHECK_NOT_EXISTS = "check-not-exists"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    verb: Verb
    key: str
    value: bytes = b""
    flags: int = 0
    index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one operation shows; Consul leaves the value out except after a read."""

    entry: Entry
    with_value: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    operation: int
    """Position in the transaction, from 0."""
    what: str


class OperationFailed(Exception):
    """One operation's condition does not hold; the text is Consul's."""


class KeyValues:
    """Keys to entries, in one table with one table index."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._tombstones: dict[str, int] = {}
        self._table_index = 0
        self._floor = 0
        """Highest index of the tombstones that were dropped to stay below the limit."""

    @property
    def table_index(self) -> int:
        """Of the latest change of any key; 1 before the first, as an index is never 0."""
        return max(self._table_index, 1)

    def get(self, key: str) -> Entry | None:
        return self._entries.get(key)

    def under(self, prefix: str) -> tuple[Entry, ...]:
        """All entries whose key starts with ``prefix``, sorted by key."""
        return tuple(self._entries[key] for key in sorted(self._entries) if key.startswith(prefix))

    def keys(self, prefix: str, separator: str) -> tuple[str, ...]:
        """Keys under ``prefix``; with a separator, cut off after its first occurrence."""
        found: dict[str, None] = {}
        for entry in self.under(prefix):
            cut = entry.key.find(separator, len(prefix)) if separator else -1
            found[entry.key if cut < 0 else entry.key[: cut + len(separator)]] = None
        return tuple(found)

    def index_of(self, key: str) -> int:
        """What Consul reports as X-Consul-Index: of a missing key, the whole table's."""
        entry = self._entries.get(key)
        return entry.modify_index if entry is not None else self.table_index

    def index_under(self, prefix: str) -> int:
        return self.touched_under(prefix) or self.table_index

    def touched(self, key: str) -> int:
        """The index of the last change that concerns ``key``; 0 if there was none."""
        entry = self._entries.get(key)
        if entry is not None:
            return entry.modify_index
        return self._tombstones.get(key, self._floor)

    def touched_under(self, prefix: str) -> int:
        indexes = [self._floor]
        indexes += (e.modify_index for k, e in self._entries.items() if k.startswith(prefix))
        indexes += (i for k, i in self._tombstones.items() if k.startswith(prefix))
        return max(indexes)

    def put(
        self, key: str, value: bytes, *, flags: int = 0, cas: int | None = None, index: int
    ) -> bool:
        """False when ``cas`` is not the entry's index (0: the key must not exist)."""
        existing = self._entries.get(key)
        if cas is not None and cas != (existing.modify_index if existing is not None else 0):
            return False
        if existing is not None and (existing.value, existing.flags) == (value, flags):
            return True
        self._table_index = index
        self._tombstones.pop(key, None)
        self._entries[key] = Entry(
            key=key,
            value=value,
            flags=flags,
            create_index=existing.create_index if existing is not None else index,
            modify_index=index,
        )
        return True

    def delete(self, key: str, *, cas: int | None = None, index: int) -> bool:
        """True also for a missing key, whatever ``cas`` says; a ``cas`` of 0 deletes nothing."""
        existing = self._entries.get(key)
        if cas == 0:
            return False
        if existing is None:
            return True
        if cas is not None and cas != existing.modify_index:
            return False
        del self._entries[key]
        self._table_index = index
        self._tombstones.pop(key, None)
        self._tombstones[key] = index
        while len(self._tombstones) > MAX_TOMBSTONES:
            oldest = next(iter(self._tombstones))
            self._floor = max(self._floor, self._tombstones.pop(oldest))
        return True

    def delete_under(self, prefix: str, *, index: int) -> None:
        for entry in self.under(prefix):
            self.delete(entry.key, index=index)

    def transact(
        self, operations: Sequence[Operation], *, index: int
    ) -> tuple[tuple[Result, ...], tuple[Failure, ...]]:
        """All operations at one index, or none: then the failures say why, all of them."""
        trial = self._copy()
        results: list[Result] = []
        failures: list[Failure] = []
        for position, operation in enumerate(operations):
            try:
                results.extend(trial._apply(operation, index))
            except OperationFailed as failed:
                failures.append(Failure(operation=position, what=str(failed)))
        if failures:
            return (), tuple(failures)
        self._entries, self._tombstones = trial._entries, trial._tombstones
        self._table_index, self._floor = trial._table_index, trial._floor
        return tuple(results), ()

    def entries(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def restore(self, entry: Entry) -> None:
        """Puts back what a previous run had, indexes included."""
        self._entries[entry.key] = entry
        self._table_index = max(self._table_index, entry.modify_index)

    def restore_floor(self, index: int) -> None:
        """Deletions up to ``index`` are forgotten; nothing may report less."""
        self._floor = index
        self._table_index = max(self._table_index, index)

    def _copy(self) -> "KeyValues":
        copy = KeyValues()
        copy._entries, copy._tombstones = dict(self._entries), dict(self._tombstones)
        copy._table_index, copy._floor = self._table_index, self._floor
        return copy

    def _apply(self, operation: Operation, index: int) -> tuple[Result, ...]:
        key, shown = operation.key, f'"{operation.key}"'
        existing = self._entries.get(key)
        match operation.verb:
            case Verb.SET | Verb.CAS:
                cas = operation.index if operation.verb is Verb.CAS else None
                if not self.put(key, operation.value, flags=operation.flags, cas=cas, index=index):
                    raise OperationFailed(f"failed to set key {shown}, index is stale")
                return (Result(entry=self._entries[key], with_value=False),)
            case Verb.GET:
                if existing is None:
                    raise OperationFailed(f"key {shown} doesn't exist")
                return (Result(entry=existing, with_value=True),)
            case Verb.GET_TREE:
                return tuple(Result(entry=entry, with_value=True) for entry in self.under(key))
            case Verb.DELETE:
                self.delete(key, index=index)
            case Verb.DELETE_TREE:
                self.delete_under(key, index=index)
            case Verb.DELETE_CAS:
                if not self.delete(key, cas=operation.index, index=index):
                    raise OperationFailed(f"failed to delete key {shown}, index is stale")
            case Verb.CHECK_INDEX:
                if existing is None:
                    raise OperationFailed(f"failed to check index, key {shown} doesn't exist")
                if existing.modify_index != operation.index:
                    raise OperationFailed(
                        f"failed index check for key {shown}, current modify index "
                        f"{existing.modify_index} != {operation.index}"
                    )
                return (Result(entry=existing, with_value=False),)
            case Verb.CHECK_NOT_EXISTS:
                if existing is not None:
                    raise OperationFailed(f"key {shown} exists")
        return ()
