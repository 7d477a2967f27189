"""ring_hash and maglev: equal keys go to the same endpoint, and few move when one leaves.

Both are a circle of places, each owned by an endpoint; a key has a place, and if its owner is not
to be used the next places are asked in turn. So an endpoint that is unavailable, or was tried
already, moves only the keys that were its own, to as many others as it has places, and the table
is built anew only when endpoints join or leave. All proxies of the mesh build the same one: places
depend on what an endpoint is called and nothing else. Zones and slow start do not apply here: they
would move keys.

*ring_hash*: an endpoint has up to 1024 points (Envoy's ``minimum_ring_size`` for all of them; so
many for each makes shares even to some 3 %) and fewer if there are many: see ``POINTS_IN_ALL``.
*maglev*: 65537 places dealt out in turn, shares even to less than 1 % (Eisenbud et al., "Maglev",
section 3.4); lookup without a search, some more keys move than with the ring.
"""

from array import array
from bisect import bisect
from collections.abc import Collection, Sequence
from hashlib import blake2b
from sys import byteorder
from typing import Generic, Literal, TypeVar

from proxy.core.balance.choice import Choose
from proxy.core.balance.state import EndpointState
from proxy.model.endpoint import Endpoint

RING_LEAST = 1024
POINTS_MOST = 1024
POINTS_FEWEST = 16
POINTS_IN_ALL = 16384
"""Roughly: a power of two of points for each endpoint, so that the number changes, and keys of
endpoints that stay move, only when the endpoints become twice as many or half."""

MAGLEV_PLACES = 65537
"""Envoy's table size; a prime, so that each endpoint's steps visit every place."""

_POINTS_PER_DIGEST = 8

S = TypeVar("S", bound=EndpointState)


class HashCircle(Generic[S]):
    """Immutable, for one set of endpoints."""

    __slots__ = ("_members", "_owners", "_points")

    def __init__(self, states: Sequence[S], kind: Literal["ring_hash", "maglev"]) -> None:
        """Endpoints of weight 0 have no place, unless they are all so."""
        weighted = [state for state in states if state.endpoint.weight] or states
        self._members: tuple[S, ...] = tuple(
            sorted(weighted, key=lambda state: _name(state.endpoint))
        )
        weights = [state.endpoint.weight or 1 for state in self._members]
        names = [_name(state.endpoint) for state in self._members]
        self._points: array[int] | None = None
        self._owners: array[int] = array("I")
        if not names:
            return
        if kind == "ring_hash":
            self._points, self._owners = ring(names, weights)
        else:
            self._owners = maglev(names, weights)

    @property
    def choose(self) -> Choose[S]:
        """For when every member may be used. HOT: the function returned."""
        members, owners, points = self._members, self._owners, self._points
        if not members:
            return lambda _key: None
        if points is not None:
            ring_points = points
            return lambda key: members[owners[bisect(ring_points, key)]]
        return lambda key: members[owners[key % MAGLEV_PLACES]]

    def seek(self, key: int, usable: Collection[S], tried: Collection[S]) -> S | None:
        """The first from the key's place on that is ``usable`` (a set) and not ``tried``."""
        if len(tried) >= len(usable) and all(state in tried for state in usable):
            return None
        members, owners, points = self._members, self._owners, self._points
        count = len(owners)
        start = key % MAGLEV_PLACES if points is None else bisect(points, key)
        last = -1
        for place in range(start, start + count):
            owner = owners[place % count]
            if owner == last:
                continue
            last = owner
            state = members[owner]
            if state in usable and state not in tried:
                return state
        return None


def ring(names: Sequence[str], weights: Sequence[int]) -> "tuple[array[int], array[int]]":
    """Points in order, and their owners; the first owner once more at the end, which closes it."""
    room = POINTS_IN_ALL >> (len(names) - 1).bit_length()
    each = max(POINTS_FEWEST, min(POINTS_MOST, room))
    heaviest = max(weights)
    counts = [max(1, round(each * weight / heaviest)) for weight in weights]
    while sum(counts) < RING_LEAST:
        each *= 2
        counts = [max(1, round(each * weight / heaviest)) for weight in weights]
    # The owner stands in the lowest bits, so that what is sorted are plain numbers.
    width = len(names).bit_length()
    low = (1 << width) - 1
    marked: list[int] = []
    for owner, (name, count) in enumerate(zip(names, counts, strict=True)):
        points = array("Q")
        for block in range(-(-count // _POINTS_PER_DIGEST)):
            points.frombytes(blake2b(b"%s#%d" % (name.encode(), block)).digest())
        if byteorder == "big":
            points.byteswap()
        marked += [point & ~low | owner for point in points[:count]]
    marked.sort()
    owners = array("I", [point & low for point in marked])
    owners.append(owners[0])
    return array("Q", marked), owners


def maglev(names: Sequence[str], weights: Sequence[int]) -> "array[int]":
    """Each endpoint in turn takes the next free place of its own permutation.

    With weights an endpoint takes part in a round as often as its share of the heaviest one says.
    """
    places = MAGLEV_PLACES
    at: list[int] = []
    step: list[int] = []
    for name in names:
        digest = blake2b(name.encode(), digest_size=16).digest()
        at.append(int.from_bytes(digest[:8], "big") % places)
        step.append(int.from_bytes(digest[8:], "big") % (places - 1) + 1)
    owners = [-1] * places
    free = places
    heaviest = max(weights)
    is_even = min(weights) == heaviest
    owed = [0] * len(names)
    while True:
        for owner, stride in enumerate(step):
            if not is_even:
                owed[owner] += weights[owner]
                if owed[owner] < heaviest:
                    continue
                owed[owner] -= heaviest
            place = at[owner]
            while owners[place] >= 0:
                place += stride
                if place >= places:
                    place -= places
            owners[place] = owner
            at[owner] = place
            free -= 1
            if not free:
                return array("I", owners)


def _name(endpoint: Endpoint) -> str:
    return f"{endpoint.host} {endpoint.address}:{endpoint.port}"
