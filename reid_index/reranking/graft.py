"""A query put into a gallery's neighbour graph, and what that changes: compiled loops.

The query is node N of the N rows' graph. Lists that it enters are replaced by patches (see
reciprocal.py); sets and encodings that depend on them are made again by the functions that made
them first, and all others are taken as stored. So the values are those of a graph made with it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from .neighbours import squared_distance
from .reciprocal import known, list_of, reciprocal, robust, weigh


class Grafted(NamedTuple):
    """A graph with a query in it.

    query: float32 (D,). vectors: (N, D). lists, squared: the stored lists (N, K). at, patch,
    patch_squared: of the lists that are not as stored, the query's own last; see `patched`.
    farthest: (N + 1,), with the query. set_offsets, set_index, set_squared: the stored R*.
    k1, half_k1, k2: parameters. room: the most members that R* can have.
    """

    query: NDArray[np.float32]
    vectors: NDArray[np.float32]
    lists: NDArray[np.int32]
    squared: NDArray[np.float32]
    at: NDArray[np.int32]
    patch: NDArray[np.int32]
    patch_squared: NDArray[np.float32]
    farthest: NDArray[np.float32]
    set_offsets: NDArray[np.int64]
    set_index: NDArray[np.int32]
    set_squared: NDArray[np.float32]
    k1: int
    half_k1: int
    k2: int
    room: int


@compiled()
def patched(rows, distances, index, squared, own, own_squared):  # type: ignore[no-untyped-def]
    """The lists that the query enters, with it, and its own: `at`, `patch` of reciprocal.py, and
    the distances. The query is node N, and before rows that are as near as it is."""
    nodes, length = index.shape
    at = np.full(nodes + 1, -1, np.int32)
    patch = np.empty((len(rows) + 1, length), np.int32)
    patch_squared = np.empty((len(rows) + 1, length), np.float32)
    for a in range(len(rows)):
        i = rows[a]
        at[i] = a
        p = 0
        while p < length - 1 and squared[i, p] < distances[a]:
            patch[a, p], patch_squared[a, p] = index[i, p], squared[i, p]
            p += 1
        patch[a, p], patch_squared[a, p] = nodes, distances[a]
        for rest in range(p, length - 1):
            patch[a, rest + 1], patch_squared[a, rest + 1] = index[i, rest], squared[i, rest]
    at[nodes] = len(rows)
    patch[len(rows)], patch_squared[len(rows)] = own, own_squared
    return at, patch, patch_squared


@compiled()
def _changed(index, at, patch, taking, k1, half_k1):  # type: ignore[no-untyped-def]
    """The nodes whose R* may not be the stored one, marked (N + 1,), and listed.

    R(i, ·) can change where i's own list does, and where i has left the list of another that the
    query pushed it out of. R*(i) depends on R(i, k1) and on R(c, k1/2) of its members c; and c is a
    member of R(i, k1) exactly when i is one of R(c, k1).
    """
    nodes = len(at) - 1
    seen, marked = np.zeros(nodes + 1, np.uint8), np.zeros(nodes + 1, np.uint8)
    listed = np.empty((3 * len(taking) + 1) * (2 * k1 + 3), np.int32)
    listed[0], marked[nodes], total = nodes, 1, 1
    before, after = np.empty(k1 + 1, np.int32), np.empty(k1 + 1, np.int32)
    nothing, no_lists = np.empty(0, np.int32), np.empty((0, 0), np.int32)
    for i in taking:
        for node in (i, np.int64(index[i, k1]), np.int64(index[i, half_k1])):
            if seen[node] == 1:
                continue
            seen[node] = 1
            old = reciprocal(node, half_k1 + 1, index, nothing, no_lists, before)
            new = reciprocal(node, half_k1 + 1, index, at, patch, after)
            half_same = _same(before, old, after, new)
            old = reciprocal(node, k1 + 1, index, nothing, no_lists, before)
            new = reciprocal(node, k1 + 1, index, at, patch, after)
            if half_same and _same(before, old, after, new):
                continue
            total = _mark(node, marked, listed, total)
            if not half_same:
                for p in range(old):
                    total = _mark(before[p], marked, listed, total)
                for p in range(new):
                    total = _mark(after[p], marked, listed, total)
    # R(N, k1/2) is new, so whoever has the query in its R(·, k1) has changed; those are in R(N).
    new = reciprocal(nodes, k1 + 1, index, at, patch, after)
    for p in range(new):
        total = _mark(after[p], marked, listed, total)
    return marked, listed[:total]


@compiled()
def _same(a, count_a, b, count_b):  # type: ignore[no-untyped-def]
    return count_a == count_b and (a[:count_a] == b[:count_b]).all()


@compiled()
def _mark(node, marked, listed, total):  # type: ignore[no-untyped-def]
    if marked[node] == 0:
        marked[node] = 1
        listed[total] = node
        total += 1
    return total


@compiled()
def _code(g, c, is_changed, members, distances, weights):  # type: ignore[no-untyped-def]
    """V of node c into members and weights; how many they are."""
    if not is_changed:
        begin, count = g.set_offsets[c], g.set_offsets[c + 1] - g.set_offsets[c]
        members[:count] = g.set_index[begin : begin + count]
        distances[:count] = g.set_squared[begin : begin + count]
    else:
        count = robust(c, g.k1, g.half_k1, g.lists, g.at, g.patch, members)
        nodes = len(g.lists)
        own = g.query if c == nodes else g.vectors[c]
        for p in range(count):
            if g.at[c] >= 0:
                distances[p] = known(members[p], g.patch[g.at[c]], g.patch_squared[g.at[c]])
            else:
                distances[p] = known(members[p], g.lists[c], g.squared[c])
            if np.isnan(distances[p]):
                other = g.query if members[p] == nodes else g.vectors[members[p]]
                distances[p] = squared_distance(own, other)
    weigh(distances[:count], g.farthest[c], weights)
    return count


@compiled()
def _own_code(g, changed):  # type: ignore[no-untyped-def]
    """V* of the query: its members in the order in which they come up, their weights, and the
    place of each node among them (N + 1,), -1 for others."""
    nodes = len(g.lists)
    members = np.empty(g.room, np.int32)
    distances, weights = np.empty(g.room, np.float32), np.empty(g.room, np.float64)
    place = np.full(nodes + 1, -1, np.int32)
    support, code = np.empty(g.k2 * g.room, np.int32), np.zeros(g.k2 * g.room)
    size = 0
    for p in range(g.k2):
        c = g.patch[g.at[nodes], p] if g.k2 > 1 else nodes
        count = _code(g, c, changed[c] == 1, members, distances, weights)
        for n in range(count):
            if place[members[n]] < 0:
                place[members[n]] = size
                support[size] = members[n]
                size += 1
            code[place[members[n]]] += weights[n] / g.k2
    return support[:size], code[:size], place


@compiled()
def _holding(support, changed, listed, holder_offsets, holders, nodes):  # type: ignore[no-untyped-def]
    """The nodes whose V may share a member with the query's V*: those that hold one by the stored
    sets, and all whose sets may have changed."""
    slot = np.full(nodes + 1, -1, np.int32)
    bound = len(listed)
    for node in support:
        if node < nodes:
            bound += holder_offsets[node + 1] - holder_offsets[node]
    found = np.empty(bound, np.int32)
    count = 0
    for node in support:
        if node < nodes:
            for n in range(holder_offsets[node], holder_offsets[node + 1]):
                c = holders[n]
                if changed[c] == 0 and slot[c] < 0:
                    slot[c] = count
                    found[count] = c
                    count += 1
    for c in listed:
        slot[c] = count
        found[count] = c
        count += 1
    return found[:count], slot


@compiled()
def _shares(g, found, changed, place):  # type: ignore[no-untyped-def]
    """Of V of each found node what it shares with the query's V*: where each begins (n + 1,), the
    places, the weights."""
    members = np.empty(g.room, np.int32)
    distances, weights = np.empty(g.room, np.float32), np.empty(g.room, np.float64)
    starts = np.zeros(len(found) + 1, np.int64)
    room = 64 * len(found) + g.room
    places, shares = np.empty(room, np.int32), np.empty(room, np.float64)
    used = 0
    for s in range(len(found)):
        c = found[s]
        count = _code(g, c, changed[c] == 1, members, distances, weights)
        if used + count > room:
            room = 2 * room + g.room
            more_places, more_shares = np.empty(room, np.int32), np.empty(room, np.float64)
            more_places[:used], more_shares[:used] = places[:used], shares[:used]
            places, shares = more_places, more_shares
        for n in range(count):
            if place[members[n]] >= 0:
                places[used], shares[used] = place[members[n]], weights[n]
                used += 1
        starts[s + 1] = used
    return starts, places, shares


@compiled()
def _averaging(found, starts, taking, at, offsets, followers):  # type: ignore[no-untyped-def]
    """The rows whose V* may average one of the found nodes that share something: those that follow
    it by the stored lists, and all whose lists are not as stored."""
    nodes = len(at) - 1
    bound = len(taking)
    for s in range(len(found)):
        if found[s] < nodes and starts[s + 1] > starts[s]:
            bound += offsets[found[s] + 1] - offsets[found[s]]
    rows, seen = np.empty(bound, np.int64), np.zeros(nodes, np.uint8)
    count = 0
    for s in range(len(found)):
        if found[s] < nodes and starts[s + 1] > starts[s]:
            for n in range(offsets[found[s]], offsets[found[s] + 1]):
                row = followers[n]
                if seen[row] == 0 and at[row] < 0:
                    seen[row] = 1
                    rows[count] = row
                    count += 1
    for row in taking:
        rows[count] = row
        count += 1
    return rows[:count]


@compiled()
def shared_rows(  # type: ignore[no-untyped-def]
    g, taking, holder_offsets, holders, follower_offsets, followers
):
    """The rows whose Jaccard distance to the query is below 1, and those distances (eq. 10).

    g: `Grafted`. taking: the rows whose lists the query enters. holders, followers: of `Graph`.
    """
    nodes = len(g.lists)
    changed, listed = _changed(g.lists, g.at, g.patch, taking, g.k1, g.half_k1)
    support, own_code, place = _own_code(g, changed)
    found, slot = _holding(support, changed, listed, holder_offsets, holders, nodes)
    starts, places, shares = _shares(g, found, changed, place)
    rows = _averaging(found, starts, taking, g.at, follower_offsets, followers)
    jaccard, code = np.empty(len(rows)), np.zeros(len(support))
    kept = 0
    for r in range(len(rows)):
        own = list_of(rows[r], g.lists, g.at, g.patch)
        code[:] = 0
        for p in range(g.k2):
            s = slot[own[p] if g.k2 > 1 else rows[r]]
            if s >= 0:
                for n in range(starts[s], starts[s + 1]):
                    code[places[n]] += shares[n] / g.k2
        m = 0.0
        for p in range(len(support)):
            m += min(own_code[p], code[p])
        if m > 0:
            rows[kept] = rows[r]
            jaccard[kept] = max(0.0, 1 - m / (2 - m))  # m may be above 1 by rounding
            kept += 1
    return rows[:kept], jaccard[:kept]
