#!/usr/bin/env python3
"""show_gguf.py FILE [NAME [ROW [COUNT]]]: looks into a GGUF file with Python's library alone.

    show_gguf.py dump.gguf                             the tensors of a file and their shapes
    show_gguf.py dump.gguf blk.0.q                     every row of a tensor, its first 6 numbers
    show_gguf.py dump.gguf blk.0.q 8 4                 the first 4 numbers of row 8
    show_gguf.py model.bin tokenizer.ggml.scores 8 4   the value of a key; 4 items of an array

WALKTHROUGH.md uses it, as a program and as a module: Gguf(FILE).rows(NAME) is a list of lists. It
trusts the file, unlike gguf.h, and reads the storage types that convert writes, but for q4_0."""

import struct
import sys

VALUE = "BbHhIif?  QqdX"  # struct's letter of each value type; 8 is a string, 9 an array
F32, F16, Q8_0, BF16 = 0, 1, 8, 30


class Gguf:
    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = file.read()
        self.at = 8  # behind the magic and the version
        n_tensors, n_keys = self.number("Q"), self.number("Q")
        self.keys = {self.text(): self.value(self.number("I")) for _ in range(n_keys)}
        self.tensors = {}  # name: (rows, cols, type, offset)
        for _ in range(n_tensors):
            name = self.text()
            shape = [self.number("Q") for _ in range(self.number("I"))] + [1]
            self.tensors[name] = (shape[1], shape[0], self.number("I"), self.number("Q"))
        alignment = self.keys.get("general.alignment", 32)
        self.start = (self.at + alignment - 1) // alignment * alignment

    def number(self, letter):
        (value,) = struct.unpack_from("<" + letter, self.data, self.at)
        self.at += struct.calcsize("<" + letter)
        return value

    def text(self):
        size = self.number("Q")
        self.at += size
        return self.data[self.at - size:self.at].decode(errors="replace")

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind != 9:
            return self.number(VALUE[kind])
        item, count = self.number("I"), self.number("Q")
        return [self.value(item) for _ in range(count)]

    def rows(self, name):
        rows, cols, kind, offset = self.tensors[name]
        numbers, at = [], self.start + offset
        if kind == Q8_0:  # blocks of a half d and 32 int8 q, which stand for d q
            for d, *q in struct.iter_unpack("<e32b", self.data[at:at + rows * cols // 32 * 34]):
                numbers += [d * x for x in q]
        elif kind == BF16:  # the upper half of a float32
            for (bits,) in struct.iter_unpack("<H", self.data[at:at + rows * cols * 2]):
                numbers += struct.unpack("<f", struct.pack("<I", bits << 16))
        elif kind in (F32, F16):
            numbers = struct.unpack_from(f"<{rows * cols}{'fe'[kind]}", self.data, at)
        else:
            sys.exit(f"error: {name}: storage type {kind}, expected f32, f16, bf16 or q8_0")
        return [list(numbers[i:i + cols]) for i in range(0, rows * cols, cols)]


def show(numbers, count):
    return " ".join(f"{x:8.4f}" for x in numbers[:count]) + " ..." * (count < len(numbers))


def main(path, name=None, row=None, count=None):
    gguf = Gguf(path)
    if name is None:
        for tensor, (rows, cols, *_) in gguf.tensors.items():
            print(f"{rows:6} x {cols:<6} {tensor}")
    elif name in gguf.tensors:
        rows = gguf.rows(name)
        for i in range(len(rows)) if row is None else [int(row)]:
            print(f"{name}[{i}]  {show(rows[i], int(count or 6))}")
    elif name in gguf.keys:
        value = gguf.keys[name]
        print(value[int(row):][:int(count or 1)] if row else value)
    else:
        sys.exit(f"error: {path}: no {name}, expected a key, or a tensor of this list: "
                 f"{' '.join(gguf.tensors)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
