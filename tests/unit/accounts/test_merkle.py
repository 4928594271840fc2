"""The tree against the definition of RFC 6962 written down naively, and against the published vectors."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts import merkle
from accounts.merkle import Frontier, Node

SIZE_MAX = 200
LEAVES = [merkle.leaf_hash(str(number).encode()) for number in range(SIZE_MAX)]
DATA = [bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")] + [
    bytes(range(0x60, 0x70))
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""Of the first 0 to 8 of DATA: the test vectors of Certificate Transparency's reference implementation."""


def naive_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, over leaves that are hashed already."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = naive_split(len(leaves))
    return sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_path(m: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = naive_split(len(leaves))
    if m < k:
        return [*naive_path(m, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(m - k, leaves[k:]), naive_root(leaves[:k])]


def naive_subproof(m: int, leaves: list[bytes], whole: bool = True) -> list[bytes]:
    """SUBPROOF of section 2.1.2."""
    if m == len(leaves):
        return [] if whole else [naive_root(leaves)]
    k = naive_split(len(leaves))
    if m <= k:
        return [*naive_subproof(m, leaves[:k], whole), naive_root(leaves[k:])]
    return [*naive_subproof(m - k, leaves[k:], False), naive_root(leaves[:k])]


def naive_split(number: int) -> int:
    """The largest power of two below a number."""
    k = 1
    while k * 2 < number:
        k *= 2
    return k


@pytest.fixture(scope="module")
def nodes() -> dict[Node, bytes]:
    """Every complete subtree of a tree of SIZE_MAX leaves, as appending gave it."""
    frontier = Frontier()
    return dict(one for leaf in LEAVES for one in frontier.append(leaf))


@pytest.mark.parametrize("size", range(9))
def test_the_published_roots_are_ours(size: int) -> None:
    """The empty tree, and the first eight of the reference implementation."""
    frontier = Frontier()
    for data in DATA[:size]:
        frontier.append(merkle.leaf_hash(data))
    assert frontier.root().hex() == ROOTS[size]


def test_every_size_has_the_root_of_the_definition(nodes: dict[Node, bytes]) -> None:
    """By appending one leaf after the other, and from kept subtrees alone."""
    frontier = Frontier()
    for size in range(SIZE_MAX + 1):
        wanted = naive_root(LEAVES[:size])
        assert frontier.root() == wanted
        assert merkle.hash_of((0, size), nodes) == wanted
        assert frontier.hashes == [nodes[node] for node in merkle.subtrees(0, size)]
        if size < SIZE_MAX:
            frontier.append(LEAVES[size])


def test_a_tree_of_n_leaves_keeps_fewer_than_two_n_subtrees(nodes: dict[Node, bytes]) -> None:
    """Each once, and nothing that is not complete."""
    assert len(nodes) < 2 * SIZE_MAX
    assert all((index + 1) << level <= SIZE_MAX for level, index in nodes)


@given(st.integers(1, SIZE_MAX), st.data())
def test_every_inclusion_proof_is_that_of_the_definition(size: int, data: st.DataObject) -> None:
    """And it verifies, for this leaf at this place in this tree alone."""
    position = data.draw(st.integers(0, size - 1))
    leaves = LEAVES[:size]
    known = _nodes(size)
    proof = [merkle.hash_of(one, known) for one in merkle.inclusion_ranges(position, size)]
    assert proof == naive_path(position, leaves)
    root = naive_root(leaves)
    assert merkle.includes(leaves[position], position, size, proof, root)
    assert not merkle.includes(merkle.leaf_hash(b"other"), position, size, proof, root)
    assert not merkle.includes(leaves[position], position, size, [*proof, root], root)
    other = data.draw(st.integers(0, size - 1).filter(lambda one: one != position)) if size > 1 else size
    assert not merkle.includes(leaves[position], other, size, proof, root)
    if proof:
        assert not merkle.includes(leaves[position], position, size, proof[:-1], root)


@given(st.integers(1, SIZE_MAX), st.data())
def test_every_consistency_proof_is_that_of_the_definition(second: int, data: st.DataObject) -> None:
    """And it verifies for trees where leaves were added at the end, for no other."""
    first = data.draw(st.integers(1, second))
    known = _nodes(second)
    proof = [merkle.hash_of(one, known) for one in merkle.consistency_ranges(first, second)]
    assert proof == naive_subproof(first, LEAVES[:second])
    roots = naive_root(LEAVES[:first]), naive_root(LEAVES[:second])
    assert merkle.is_consistent(first, second, *roots, proof)
    changed = list(LEAVES[:first])
    changed[data.draw(st.integers(0, first - 1))] = merkle.leaf_hash(b"changed")
    assert not merkle.is_consistent(first, second, naive_root(changed), roots[1], proof)
    assert not merkle.is_consistent(first, second, roots[0], merkle.leaf_hash(b"changed"), proof)
    assert not merkle.is_consistent(first, second, *roots, [*proof, roots[0]])
    if proof:
        assert not merkle.is_consistent(first, second, *roots, proof[:-1])


def test_all_pairs_of_small_trees_are_consistent() -> None:
    """Not sampled: every pair of sizes up to 40, and no tree with one that is not its beginning."""
    known = _nodes(40)
    roots = [naive_root(LEAVES[:size]) for size in range(41)]
    for second in range(1, 41):
        for first in range(1, second + 1):
            proof = [merkle.hash_of(one, known) for one in merkle.consistency_ranges(first, second)]
            assert merkle.is_consistent(first, second, roots[first], roots[second], proof)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 5), (6, 5)])
def test_what_cannot_be_proved_is_refused(first: int, second: int) -> None:
    """An empty or a larger tree is no beginning, and a proof of it is none."""
    with pytest.raises(ValueError, match="does not begin"):
        merkle.consistency_ranges(first, second)
    assert not merkle.is_consistent(first, second, LEAVES[0], LEAVES[0], [])
    with pytest.raises(ValueError, match="is not in a tree"):
        merkle.inclusion_ranges(second, second)


def _nodes(size: int) -> dict[Node, bytes]:
    frontier = Frontier()
    return dict(one for leaf in LEAVES[:size] for one in frontier.append(leaf))


def test_what_is_no_hash_proves_nothing() -> None:
    """Two hashes can be cut elsewhere than in their middle, and are the same bytes for the node above."""
    left, right = merkle.leaf_hash(b"left"), merkle.leaf_hash(b"right")
    root = merkle.node_hash(left, right)
    assert merkle.includes(left, 0, 2, [right], root)
    assert not merkle.includes(left + right[:1], 0, 2, [right[1:]], root)
    assert merkle.is_consistent(1, 2, left, root, [right])
    assert not merkle.is_consistent(1, 2, left + right[:1], root, [right[1:]])
