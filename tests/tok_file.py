"""tok_file.py: writes .tok shards (layout: shards.h), with the vocabulary of badinput_files.py."""

import struct

from badinput_files import EOS, TOKENS, crc32c, floats

NO_LOSS = 1 << 31
TEXT, CHAT = 0, 1


def vocab_crc(tokens=tuple(TOKENS)):
    names = b"".join(struct.pack("<Q", len(name)) + name for name, _, _ in tokens)
    scores = floats([score for _, score, _ in tokens])
    return crc32c(names + scores + bytes(kind for _, _, kind in tokens))


def shard(ids, kind=TEXT, width=2, end=EOS, **changes):
    """The bytes of a shard; `changes` are fields of its header that differ."""
    body = struct.pack(f"<{len(ids)}{'H' if width == 2 else 'I'}", *ids)
    head = {"magic": b"octokens", "version": 1, "vocab_size": len(TOKENS), "n_tokens": len(ids),
            "n_documents": sum(i & ~NO_LOSS == end for i in ids), "n_bytes": len(ids),
            "width": width, "end_id": end, "kind": kind, "vocab_crc": vocab_crc(),
            "data_crc": crc32c(body), **changes}
    packed = struct.pack("<8sIIQQQIIIII", *head.values())
    return (packed + struct.pack("<I", crc32c(packed))).ljust(1024, b"\0") + body


def chat(examples):
    """A chat shard of (prompt, answer) pairs of ids; the end of an answer is learned too."""
    ids = []
    for prompt, answer in examples:
        ids += [i | NO_LOSS for i in prompt] + list(answer) + [EOS | NO_LOSS]
    return shard(ids, CHAT, 4)
