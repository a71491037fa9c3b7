"""A tree of shared prefixes: sequences that begin alike store their common tokens once.

A sequence is a context and the ids that are trained on after it. The last id is a target only, so the inputs are

    context + ids[:-1]

Sequences share tokens of the new sequence's context only: answers to the same prompt never share, even if they begin
alike, so a group always is its prompt with one branch for each answer. The turns of a conversation, each of which
continues the one before, share everything and form a single node; where a chat template writes the history differently
(without the thoughts of earlier turns, for instance), the tree branches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

Ids = Sequence[int]


@dataclass(eq=False)
class Node:
    """Consecutive tokens that all paths through this node have in common."""

    ids: tuple[int, ...]
    start: int
    """Position of the first token in every sequence through this node."""
    parent: "Node | None" = None
    children: list["Node"] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.start + len(self.ids)

    @property
    def path(self) -> tuple["Node", ...]:
        """The nodes from the root to this one."""
        return (self,) if self.parent is None else (*self.parent.path, self)


class PrefixTree:
    """The sequences of one group. `tokens` counts the tokens of all nodes below the root."""

    def __init__(self, shared: Ids = ()) -> None:
        """`shared` are the tokens of the root, with which every context must begin."""
        self.root = Node(tuple(shared), 0)
        self.tokens = 0

    def new_tokens(self, context: Ids, ids: Ids) -> int:
        """Returns the number of tokens that `add` would add."""
        return len(context) + len(ids) - 1 - self._follow(context)[1]

    def add(self, context: Ids, ids: Ids) -> Node:
        """Adds a sequence and returns a node whose path contains all of its inputs.

        Nodes that `add` returned earlier stay valid.
        """
        node, depth = self._follow(context)
        rest = (*context[depth:], *ids[:-1])
        self.tokens += len(rest)
        if not rest:
            return node
        if depth < node.end:
            node = _split(node, depth)
        elif not node.children and node is not self.root:
            node.ids += rest
            return node
        child = Node(rest, depth, node)
        node.children.append(child)
        return child

    def levels(self) -> Iterator[list[Node]]:
        """Yields the nodes below the root by depth, in the order in which they were added."""
        level = self.root.children
        while level:
            yield level
            level = [child for node in level for child in node.children]

    def _follow(self, context: Ids) -> tuple[Node, int]:
        """Returns the node in which the longest stored prefix of `context` ends, and the length of this prefix."""
        node, depth = self.root, self.root.end
        while depth == node.end:
            shared, child = max(
                ((_common(child.ids, context[depth:]), child) for child in node.children),
                key=lambda found: found[0],
                default=(0, node),
            )
            if shared == 0:
                break
            node, depth = child, depth + shared
        return node, depth


def _split(node: Node, depth: int) -> Node:
    """Cuts a node at position `depth` and returns the new node with its first part, which becomes its parent."""
    cut = depth - node.start
    head = Node(node.ids[:cut], node.start, node.parent, [node])
    if node.parent is not None:
        node.parent.children[node.parent.children.index(node)] = head
    node.ids, node.start, node.parent = node.ids[cut:], depth, head
    return head


def _common(first: Ids, second: Ids) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def common_length(sequences: Sequence[Ids]) -> int:
    """Returns the length of the prefix that all sequences share."""
    ordered = [tuple(sequence) for sequence in sequences]
    # Of sequences in lexicographic order, the first and the last differ the most.
    return _common(min(ordered), max(ordered))
