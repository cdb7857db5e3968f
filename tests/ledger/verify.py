#!/usr/bin/env python3
"""Verifies a log that staithe wrote, with Python's `cryptography` for signatures and the tree as RFC 6962 defines it.

Written from docs/ledger.md, RFC 6962 and C2SP alone; nothing here is staithe's. Both signatures of every checkpoint, Ed25519 and
ML-DSA-44, every entry under the root, every tile, each earlier checkpoint, and proofs of single entries as C2SP tlog-proof has them.

usage: verify.py LOG KEYS KEPT PROOFS      a log, its keys, a directory of kept checkpoints, a directory of proofs with their entries
"""

import base64
import hashlib
import pathlib
import struct
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

HEADER = 4096
ED25519, ML_DSA_44 = 1, 6


class Refused(Exception):
    """The log is not what its checkpoint says."""


def that(holds, otherwise):
    if not holds:
        raise Refused(otherwise)


# ---- Signatures: C2SP signed-note, tlog-checkpoint, tlog-cosignature ---------------------------------------------------------------


def keys(path):
    """The keys of a file by name and key id: its kind, and the key."""
    found = {}
    for line in path.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        name, key_id, encoded = line.split("+", 2)
        raw = base64.b64decode(encoded, validate=True)
        key_id = bytes.fromhex(key_id)
        that(hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4] == key_id, f"the key id of {name} is not that of its key")
        known = {ED25519: Ed25519PublicKey.from_public_bytes, ML_DSA_44: MLDSA44PublicKey.from_public_bytes}
        found[name, key_id] = raw[0], known[raw[0]](raw[1:])
    that(sorted(kind for kind, _ in found.values()) == [ED25519, ML_DSA_44], "the log has one key of each kind")
    return found


class Checkpoint:
    """A signed checkpoint, verified with both keys."""

    def __init__(self, where, text, known):
        body, _, lines = text.rpartition("\n\n")
        body += "\n"
        fields = body.split("\n")
        that(len(fields) == 4 and fields[3] == "", f"{where}: not three lines")
        self.origin, size, root = fields[:3]
        self.size, self.root = int(size), base64.b64decode(root, validate=True)
        that(str(self.size) == size and len(self.root) == 32, f"{where}: size or root is none")
        seen = set()
        for line in lines.splitlines():
            dash, name, encoded = line.split(" ")
            raw = base64.b64decode(encoded, validate=True)
            kind, key = known.get((name, raw[:4]), (None, None))
            that(dash == "—", f"{where}: no signature line")
            if kind is None:
                continue
            that(name == self.origin, f"{where}: signed under another name")
            try:
                self.verified(kind, key, body, raw[4:])
            except InvalidSignature:
                raise Refused(f"{where}: the signature of kind {kind} is wrong") from None
            seen.add(kind)
        that(seen == {ED25519, ML_DSA_44}, f"{where}: signatures of the kinds {sorted(seen)} only")

    def verified(self, kind, key, body, signature):
        if kind == ED25519:
            return key.verify(signature, body.encode())
        time, signature = signature[:8], signature[8:]
        name = self.origin.encode()
        named = bytes([len(name)]) + name
        message = b"subtree/v1\n\0" + named + time + named + struct.pack(">QQ", 0, self.size) + self.root
        return key.verify(signature, message)


# ---- The tree: RFC 6962 ------------------------------------------------------------------------------------------------------------


def leaf(entry):
    return hashlib.sha256(b"\0" + entry).digest()


def node(left, right):
    return hashlib.sha256(b"\1" + left + right).digest()


def split(count):
    """The largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


class Tree:
    """Hashes of ranges of leaves, by the definition of the RFC's section 2.1."""

    def __init__(self, leaves):
        self.leaves, self.known = leaves, {}

    def root(self, begin, end):
        if end - begin == 1:
            return self.leaves[begin]
        if (begin, end) not in self.known:
            middle = begin + split(end - begin)
            self.known[begin, end] = node(self.root(begin, middle), self.root(middle, end))
        return self.known[begin, end]

    def head(self, size):
        return self.root(0, size) if size else hashlib.sha256().digest()

    def consistency(self, old, begin, end, whole):
        """SUBPROOF of section 2.1.2, for the leaves from `begin` on."""
        if old == end - begin:
            return [] if whole else [self.root(begin, end)]
        left = split(end - begin)
        middle = begin + left
        if old <= left:
            return [*self.consistency(old, begin, middle, whole), self.root(middle, end)]
        return [*self.consistency(old - left, middle, end, False), self.root(begin, middle)]


def included(index, size, leaf_hash, proof):
    """The root that an inclusion proof leads to (RFC 9162, section 2.1.3.2, for the same tree)."""
    that(index < size, "the index is not in the tree")
    at, last, root = index, size - 1, leaf_hash
    for hashed in proof:
        that(last != 0, "the proof is too long")
        if at & 1 or at == last:
            root = node(hashed, root)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            root = node(root, hashed)
        at, last = at >> 1, last >> 1
    that(last == 0, "the proof is too short")
    return root


def consistent(old, new, proof):
    """Whether a consistency proof leads from one checkpoint to another (RFC 9162, section 2.1.4.2, for the same tree)."""
    if old.size == new.size:
        return not proof and old.root == new.root
    if old.size == 0:
        return not proof
    proof = list(proof)
    if old.size & old.size - 1 == 0:
        proof.insert(0, old.root)
    if not proof:
        return False
    at, last = old.size - 1, new.size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = proof[0]
    for hashed in proof[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            first, second = node(hashed, first), node(hashed, second)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            second = node(second, hashed)
        at, last = at >> 1, last >> 1
    return last == 0 and first == old.root and second == new.root


# ---- The files: docs/ledger.md -----------------------------------------------------------------------------------------------------


def frames(content):
    """Kind, and where the content lies, of every frame of a segment."""
    that(content[:8] == b"tlogseg\1", "no segment")
    at = HEADER
    while at + 8 <= len(content):
        word = int.from_bytes(content[at : at + 4], "little")
        if word == 0:
            break
        kind, begin, at = word >> 24, at + 8, at + 8 + (word & 0xFFFFFF)
        that(kind in (1, 2) and at <= len(content), f"a frame of kind {kind} that is none")
        yield kind, begin, at


def entries(log):
    """All entries. The checksums of frames are passed over: they prove nothing."""
    found = []
    for path in sorted((log / "wal").glob("*.seg")):
        content = path.read_bytes()
        that(int.from_bytes(content[16:24], "little") == len(found), f"{path.name} does not begin where the one before it ends")
        found += [content[begin:end] for kind, begin, end in frames(content) if kind == 1]
    return found


def tiles(log, tree, size):
    """Compares every full tile with the tree; how many there are."""
    count, level = 0, 0
    while full := size >> 8 * (level + 1):
        for number in range(full):
            digits = f"{number:0{(len(str(number)) + 2) // 3 * 3}}"
            groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
            path = log / "tile" / str(level) / "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
            width = 1 << 8 * level
            wanted = b"".join(tree.root(at * width, (at + 1) * width) for at in range(number << 8, number + 1 << 8))
            that(path.is_file(), f"{path} is missing")
            that(path.read_bytes() == wanted, f"{path} is not what the tree makes of it")
            count += 1
        level += 1
    return count


def proof(path, known):
    """One tlog-proof: its entry lies beside it."""
    text = path.read_text()
    head, _, signed = text.partition("\n\n")
    kind, index, *hashes = head.split("\n")
    that(kind == "c2sp.org/tlog-proof@v1" and index.startswith("index "), f"{path} is no proof")
    checkpoint = Checkpoint(path, signed, known)
    hashes = [base64.b64decode(line, validate=True) for line in hashes]
    led = included(int(index[6:]), checkpoint.size, leaf(path.with_suffix(".entry").read_bytes()), hashes)
    that(led == checkpoint.root, f"{path} does not lead to the root")


def verify(log, key_file, kept, proofs):
    known = keys(key_file)
    latest = Checkpoint("checkpoint", (log / "checkpoint").read_text(), known)
    found = entries(log)
    that(len(found) >= latest.size, f"the checkpoint is over {latest.size} entries, and {len(found)} are there")
    tree = Tree([leaf(entry) for entry in found])
    that(tree.head(latest.size) == latest.root, "the entries have another root than the one that was signed")
    many = tiles(log, tree, latest.size)
    earlier = [Checkpoint(path.name, path.read_text(), known) for path in [*(log / "archive").iterdir(), *kept.iterdir()]]
    for one in earlier:
        that(one.size <= latest.size, f"a checkpoint was signed over {one.size} entries, the log has {latest.size}")
        that(tree.head(one.size) == one.root, f"the first {one.size} entries are not those that were signed then")
        steps = tree.consistency(one.size, 0, latest.size, True) if one.size else []
        that(consistent(one, latest, steps), f"no proof leads from {one.size} to {latest.size} entries")
    proved = sorted(proofs.glob("*.tlog-proof"))
    for path in proved:
        proof(path, known)
    return f"{latest.size} records, {many} tiles, {len(earlier)} earlier checkpoints and {len(proved)} proofs"


if __name__ == "__main__":
    try:
        print(verify(*(pathlib.Path(word) for word in sys.argv[1:5])))
    except (Refused, ValueError, KeyError, IndexError, TypeError) as error:
        print(f"refused: {error or type(error).__name__}")
        sys.exit(1)
