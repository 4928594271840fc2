"""The Merkle tree of RFC 6962 (RFC 9162): hashes, roots, proofs and their verification; pure, it knows no journal.

A complete subtree is named by its level, 0 for leaves, and its index among those of its level. Only complete ones are
ever kept: they never change, and any root or proof is made of few of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

Node = tuple[int, int]
"""Level and index of a complete subtree; its leaves are index << level up to (index + 1) << level."""
Range = tuple[int, int]
"""The first leaf, and the one after the last."""

EMPTY_ROOT = sha256(b"").digest()
HASH_BYTES = 32


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf with this content."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node over two others."""
    return sha256(b"\x01" + left + right).digest()


def subtrees(start: int, end: int) -> list[Node]:
    """The complete subtrees over the leaves [start, end), from left to right. `start` has to be a place where a
    subtree as large as the largest of them may begin: those of a tree and of proofs are."""
    found: list[Node] = []
    size = end - start
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            found.append((level, start >> level))
            start += 1 << level
    return found


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root over complete subtrees that stand side by side; of none, that of the empty tree."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def hash_of(leaves: Range, nodes: Mapping[Node, bytes]) -> bytes:
    """The hash over a range of leaves, from its complete subtrees."""
    return fold([nodes[node] for node in subtrees(*leaves)])


@dataclass(slots=True)
class Frontier:
    """What has to be known of a tree to add to it: its size, and the hashes of `subtrees(0, size)`."""

    size: int = 0
    hashes: list[bytes] = field(default_factory=list)

    def append(self, leaf: bytes) -> list[tuple[Node, bytes]]:
        """Adds a leaf by its hash; gives the subtrees that it completes, itself first."""
        node, value = (0, self.size), leaf
        done = [(node, value)]
        size = self.size
        while size & 1:
            value = node_hash(self.hashes.pop(), value)
            node = (node[0] + 1, node[1] >> 1)
            done.append((node, value))
            size >>= 1
        self.hashes.append(value)
        self.size += 1
        return done

    def root(self) -> bytes:
        """The root of the tree as it is."""
        return fold(self.hashes)


def inclusion_ranges(position: int, size: int) -> list[Range]:
    """The ranges whose hashes prove that a leaf is in a tree, from below. Raises ValueError when it cannot be."""
    if not 0 <= position < size:
        raise ValueError(f"position {position} is not in a tree of {size}")
    ranges: list[Range] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if position < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def consistency_ranges(first: int, second: int) -> list[Range]:
    """The ranges whose hashes prove that the tree of `second` leaves begins with that of `first`.

    Raises ValueError when it cannot.
    """
    if not 1 <= first <= second:
        raise ValueError(f"a tree of {second} does not begin with one of {first}")
    ranges: list[Range] = []
    start, end = 0, second
    while first != end:
        middle = start + _split(end - start)
        if first <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    if start:
        # Where the earlier tree is a whole subtree of the later one, its root is known to whoever asks.
        ranges.append((start, end))
    return ranges[::-1]


def includes(leaf: bytes, position: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether the proof shows the leaf at its position in the tree with this root (RFC 9162, 2.1.3.2)."""
    if not 0 <= position < size or not _are_hashes(leaf, root, *proof):
        return False
    at, last, value = position, size - 1, leaf
    for one in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            value = node_hash(one, value)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            value = node_hash(value, one)
        at, last = at >> 1, last >> 1
    return last == 0 and value == root


def is_consistent(first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the proof shows that the second tree is the first with leaves added at its end (RFC 9162, 2.1.4.2)."""
    if not 1 <= first <= second or not _are_hashes(first_root, second_root, *proof):
        return False
    if first == second:
        return not proof and first_root == second_root
    hashes = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    if not hashes or not proof:
        return False
    at, last = first - 1, second - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    earlier = later = hashes[0]
    for one in hashes[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            earlier, later = node_hash(one, earlier), node_hash(one, later)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            later = node_hash(later, one)
        at, last = at >> 1, last >> 1
    return last == 0 and earlier == first_root and later == second_root


def _are_hashes(*values: bytes) -> bool:
    """Whether all are as long as hashes: of other lengths two pairs could be the same bytes."""
    return all(len(value) == HASH_BYTES for value in values)


def _split(size: int) -> int:
    """The largest power of two below `size`, which is at least 2."""
    return 1 << (size - 1).bit_length() - 1
