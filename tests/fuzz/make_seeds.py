#!/usr/bin/env python3
"""make_seeds.py: writes tests/fuzz/seeds/TARGET/NAME anew: small valid inputs of every reader, made
by what makes the files of badinput.py. Python's library is enough. A seed is what a fuzzer begins
with, and what tests/test_fuzz.py gives to its target."""

import base64
import gzip
import io
import json
import lzma
import os
import pickle
import shutil
import struct
import sys
import tarfile
import zipfile
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

import badinput_files as files  # noqa: E402
import tok_file  # noqa: E402

DATA = os.path.join(os.path.dirname(HERE), "data")
SEEDS = os.path.join(HERE, "seeds")


def seed(target, name, content):
    place = os.path.join(SEEDS, target)
    os.makedirs(place, exist_ok=True)
    with open(os.path.join(place, name), "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())


TINY = [(b"<unk>", 0.0, files.UNKNOWN), (b"<s>", 0.0, files.CONTROL),
        (files.SPACE, -1.0, files.NORMAL), (b"a", -2.0, files.NORMAL), (b"b", -3.0, files.NORMAL),
        (b"ab", -1.5, files.NORMAL)]


def tiny_gguf(numbers, **more):
    """A model of 6 tokens, one layer and rows of `numbers` numbers: small is fuzzed fast."""
    g = files.Gguf(tokens=tuple(TINY), **more)
    sizes = {"embedding_length": numbers, "block_count": 1, "feed_forward_length": 2,
             "context_length": 8, "attention.head_count": 1, "attention.head_count_kv": 1}
    for name, size in sizes.items():
        g.set("llama." + name, files.U32, size)
    g.set("tokenizer.ggml.eos_token_id", files.U32, 1)
    rows = {"token_embd": 6, "output": 6, "attn_q": 2, "attn_k": 2, "attn_v": 2, "ffn_gate": 2,
            "ffn_up": 2}
    columns = {"attn_output": 2, "ffn_down": 2}
    tensors = []
    for name, shape, kind, _ in g.tensors:
        part = name.split(".")[-2]
        if name.startswith("blk.1."):
            continue
        shape = (numbers,) if "norm" in part else \
            (columns.get(part, numbers), rows.get(part, numbers))
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        tensors.append([name, shape, kind, files.floats([(i % 3) / 2 for i in range(count)])])
    g.tensors = tensors
    return g


def stored_as(g, kind, change):
    """The same with its two big matrices in another type."""
    for name in ("token_embd.weight", "output.weight"):
        data = g.tensor(name)[3]
        numbers = list(struct.unpack(f"<{len(data) // 4}f", data))
        g.store(name, kind, change(numbers))
    return g


def gguf_seeds():
    q8 = stored_as(tiny_gguf(32), files.Q8_0, files.q8_0)
    f16 = stored_as(tiny_gguf(2, checksums="none"), files.F16, files.half)
    unigram = stored_as(tiny_gguf(2), files.BF16, files.bfloat)
    unigram.set("tokenizer.ggml.model", files.STR, "t5")
    for name, g in (("q8", q8), ("f16", f16), ("unigram", unigram)):
        for target in ("gguf", "model"):
            seed(target, name, g.build())
    seed("gguf", "adapter", files.adapter(
        {"blk.0.attn_q.weight": (2, 2), "output.weight": (6, 2)}, rank=1).build())
    everything = files.Gguf()
    everything.tensors = []
    for kind, code in enumerate(files.CODES):
        if code not in "? " or kind == files.BOOL:
            value = True if kind == files.BOOL else 1
            everything.set(f"test.{kind}", kind, value)
            everything.set(f"test.array.{kind}", files.ARRAY, (kind, [value] * 3))
    seed("gguf", "keys", everything.build())


def hf_seeds():
    tensors = dict(list(files.hf_weights().items())[:3])
    seed("safetensors", "three", files.safetensors(tensors))
    seed("safetensors", "types", files.safetensors_bytes(
        {"__metadata__": {"format": "pt"},
         "a": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]},
         "b": {"dtype": "I64", "shape": [1], "data_offsets": [8, 16]},
         "c": {"dtype": "F32", "shape": [], "data_offsets": [16, 20]},
         "d": {"dtype": "F16", "shape": [0, 4], "data_offsets": [20, 20]}}, bytes(20)))
    some = dict(list(files.hf_weights().items())[1:4])
    items = [(name, files.pickle_tensor(str(i), shape)) for i, (name, (shape, _))
             in enumerate(some.items())]
    archive = [("m/data.pkl", files.pickle_dict(items)), ("m/byteorder", b"little")]
    archive += [(f"m/data/{i}", data) for i, (_, data) in enumerate(some.values())]
    seed("torchzip", "three", files.Zip(archive).build())
    wide = files.Zip(archive)
    size = len(wide.build())
    wide.wide = (len(archive), 0, size)
    seed("torchzip", "wide", wide.build())
    seed("config", "all", files.to_json(files.hf_config()))
    seed("config", "more", files.to_json(files.hf_config(
        rope_scaling=None, tie_word_embeddings=True, attention_bias=False, head_dim=2,
        hidden_act="silu", torch_dtype="bfloat16", rope_theta=5e5, eos_token_id=[2, 31])))
    names = {"config.json": "a", "generation_config.json": "b", "tokenizer_config.json": "c",
             "special_tokens_map.json": "d", "added_tokens.json": "e", "tokenizer.model": "f",
             "model.safetensors.index.json": "g", "a.safetensors": "h", "model.safetensors": "i",
             "chat_template.jinja": "j", "pytorch_model.bin": "k"}

    def directory(contents):
        return b"".join(b"\xffF" + names[name].encode() + content
                        for name, content in contents.items())

    right = dict(files.right_files())
    seed("hf", "right", directory(right))
    more = {k: v for k, v in right.items() if k != "model.safetensors"}
    more["model.safetensors.index.json"] = files.to_json(
        {"weight_map": {name: "a.safetensors" for name in files.hf_weights()}})
    more["a.safetensors"] = right["model.safetensors"]
    more["generation_config.json"] = files.to_json({"eos_token_id": [2, 31], "bos_token_id": 1})
    more["special_tokens_map.json"] = files.to_json(
        {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False},
         "additional_special_tokens": ["<|im_start|>"]})
    more["tokenizer_config.json"] = files.to_json(
        {"tokenizer_class": "INFLMTokenizer", "chat_template": "x", "add_bos_token": True,
         "added_tokens_decoder": {"2": {"content": "</s>", "special": True}}})
    seed("hf", "more", directory(more))
    seed("hf", "torch", directory({**{k: v for k, v in right.items()
                                      if k != "model.safetensors"},
                                   "pytorch_model.bin": files.torch_zip().build()}))


def vocabulary_seeds():
    seed("sentencepiece", "letters", files.sentencepiece())
    seed("sentencepiece", "bytes", files.sentencepiece(tuple(files.TOKENS[:6] + files.BYTES),
                                                       trainer={24: 1, 45: b"<unk>"}))
    charsmap = struct.pack("<I", 8) + struct.pack("<2I", 1 << 10, 0x161) + b"b\0"
    seed("sentencepiece", "unigram", files.sentencepiece(
        trainer={3: 1}, normalizer={2: charsmap, 3: 1, 4: 1}))
    count = len(files.OLD_TOKENS)
    seed("llama2c_tokenizer", "right", struct.pack("<H", count) + files.old_tokenizer())

    def tiny(version):
        """One layer of 8 numbers a row, 16 tokens."""
        dim, hidden, vocab, context = 8, 4, 16, 4
        seven = [dim, hidden, 1, 2, 1, -vocab if version == 0 else vocab, context]
        matrices = [vocab * dim, dim * dim, dim * dim // 2, dim * dim // 2, dim * dim,
                    dim * hidden, dim * hidden, dim * hidden, vocab * dim]
        if version == 0:
            floats = sum(matrices) + 3 * dim + context * dim // 2
            return struct.pack("<7i", *seven) + files.floats([0.5] * floats)
        head = b"24ka" + struct.pack("<8i", version, *seven) + b"\0"
        head += struct.pack("<i", 4) if version == 2 else b""
        body = files.floats([1.0] * 3 * dim)
        for n in matrices:
            body += bytes(n) + files.floats([0.25] * (n // 4)) if version == 2 \
                else files.floats([0.5] * n)
        return head.ljust(256, b"\0") + body

    for version in range(3):
        seed("llama2c", f"version{version}", tiny(version))


def training_seeds():
    seed("shards", "text", tok_file.shard([5, 6, 7, 2, 8, 9, 2] * 4))
    seed("shards", "wide", tok_file.shard([5, 6, 7, 2, 8, 9, 2] * 4, width=4))
    seed("shards", "chat", tok_file.chat([([4, 5], [6, 7]), ([8], [9, 10, 11])]))
    seed("chats", "messages", json.dumps({"messages": [
        {"role": "system", "content": "be brief"}, {"role": "user", "content": "hi <|im_end|>"},
        {"role": "assistant", "content": "\nyes"}]}))
    seed("chats", "pair", json.dumps({"instruction": "add", "input": "1 2", "output": "3"}))
    seed("chats", "response", json.dumps({"instruction": "add", "response": "3"}))


def conversation_seeds():
    ask = "Write a function in Python that adds two integers.\n```python\nint x\n```"
    answer = "```python\ndef add(a, b):\n    return a + b\n```"
    seed("instruct", "wildchat", json.dumps({
        "conversation": [{"role": "user", "content": ask, "language": "English", "toxic": False},
                         {"role": "assistant", "content": answer, "redacted": False}],
        "toxic": False, "redacted": False, "language": "English", "conversation_hash": "h"}))
    seed("instruct", "sharegpt", json.dumps({"id": 7, "conversations": [
        {"from": "system", "value": "s"}, {"from": "human", "value": ask},
        {"from": "gpt", "value": answer}, {"from": "human", "value": "and now?"}]}))
    seed("instruct", "pair", json.dumps({"instruction": ask, "input": "1", "output": answer}))


def text_seeds():
    seed("json", "all", b'{"a":[1,-2.5e3,true,false,null],"b":{"\\u00e9\\ud83d\\ude00":"\\n\\\\"},'
                        b'"\xc3\xa9":9223372036854775807,"z":0.1}')
    document = {"repo": "o/n", "path": "src/a.py", "ext": "py", "language": "Python",
                "type": "code", "stars": 7, "commit_time": 1700000000, "size": 4, "other": [1, {}],
                "content": "x=1\n"}
    line = json.dumps(document)
    seed("document", "all", line)
    seed("document", "text", b'\xef\xbb\xbf{"text":"caf\xc3\xa9","more":null}')
    seed("lines", "plain", line + "\n\n" + '{"text":"a"}\r\n{}')
    # A frame of one raw block (RFC 8878): magic, descriptor, window, block header, bytes.
    frame = b"\x28\xb5\x2f\xfd\x00\x58" + struct.pack("<I", len(line) << 3 | 1)[:3] + line.encode()
    seed("lines", "zstd", frame)
    cells = [{"cell_type": "markdown", "source": ["# A\n", "b"]},
             {"cell_type": "code", "source": "print('```')", "outputs": []}]
    meta = {"language_info": {"name": "python"}, "kernelspec": {"language": "r"}}
    seed("notebook", "four", json.dumps({"cells": cells, "metadata": meta}))
    seed("notebook", "three", json.dumps({"worksheets": [{"cells": [
        {"cell_type": "code", "input": ["x\n"]}]}], "metadata": {}}))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in (("./a.c", b"int x;\n"), ("d/b.py", b"x = 1\n")):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1700000000
            tar.addfile(info, io.BytesIO(content))
    tarred = out.getvalue()[:3072]
    seed("archive", "tar", tarred)
    seed("archive", "tar.gz", gzip.compress(tarred, mtime=0))
    seed("archive", "tar.xz", lzma.compress(tarred))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr(zipfile.ZipInfo("a.c", (2023, 11, 14, 0, 0, 0)), b"int x;\n" * 9)
    seed("archive", "zip", out.getvalue())


def web_seeds():
    html = b"<html><head><meta charset=utf-8><title>T</title></head><body><p>a &amp; b</p>" \
           b"<pre>int x;</pre><script>no</script></body></html>"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"
    answer = head + b"Content-Length: %d\r\n\r\n" % len(html) + html
    chunks = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(html) + html + \
        b"\r\n0\r\n\r\n"
    packed = gzip.compress(html, mtime=0)
    zipped = head + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed

    def record(kind, content, mime=b"application/http; msgtype=response"):
        return b"WARC/1.0\r\nWARC-Type: %s\r\nWARC-Target-URI: http://a.org/b/c\r\n" \
               b"Content-Type: %s\r\nContent-Length: %d\r\n\r\n" % (kind, mime, len(content)) + \
               content + b"\r\n\r\n"
    warc = record(b"warcinfo", b"software: x\r\n", b"application/warc-fields") + \
        record(b"response", answer) + record(b"response", chunks)
    seed("crawl", "warc", warc)
    seed("crawl", "warc.gz", gzip.compress(record(b"response", zipped), mtime=0) +
         gzip.compress(record(b"response", answer), mtime=0))
    seed("crawl", "wet", record(b"conversion", "some text \u00e9\n".encode(), b"text/plain"))
    seed("crawl", "lines", b'{"url":"http://a.org/b","text":"words of a page"}\n')
    for number, text in enumerate((answer, chunks, zipped)):
        seed("web", f"answer{number}", b"\0" + text)
    seed("web", "html", b"\x05" + html)
    seed("web", "utf16", bytes([1 + 8 * 4]) + "a\u4e2d".encode("utf-16"))
    seed("web", "address", b"\x02http://user@www.example.co.uk:80/questions/1?q#f")
    seed("web", "inflate", b"\x03" + packed)


def evaluation_seeds():
    for number, name in enumerate(("humaneval", "mbpp", "mbppplus", "livecode", "multiple",
                                   "plain")):
        with open(os.path.join(DATA, "eval", name + ".jsonl"), encoding="utf-8") as file:
            lines = file.read().splitlines()[:1]
        seed("tasks", name, bytes([number % 2 | 4]) + "\n".join(lines).encode()[:6000])
    plain = {"task_id": "max/1", "prompt": "int max(int a, int b)\n{\n", "language": "c",
             "tests": [{"input": "1 2\n", "output": "2\n"}], "stop": ["\n}"], "timeout": 3,
             "whole": True, "entry_point": "f", "solution": "x"}
    seed("tasks", "array", b"\x05" + json.dumps([plain]).encode())
    mbpp = [{"task_id": i, "text": "t", "code": "def f(x):\n    return x",
             "test_list": ["assert f(1) == 1"], "test_imports": ["import re"]} for i in (1, 2, 3)]
    seed("tasks", "shots", b"\x00" + "\n".join(map(json.dumps, mbpp)).encode())
    with open(os.path.join(DATA, "eval", "plain.jsonl"), encoding="utf-8") as file:
        ids = [json.loads(line)["task_id"] for line in file if line.strip()]
    record = {"task_id": ids[0], "sample": 0, "completion": "x", "finish": "stop", "run": "00ab"}
    seed("answers", "read", b"\x00" + json.dumps(record).encode() + b"\n")
    seed("answers", "results", b"\x01" + json.dumps(
        {"task_id": ids[0], "sample": 0, "result": "passed", "seconds": 0.5, "reason": "r",
         "key": "0"}).encode() + b"\n")
    seed("answers", "resume", b"\x02" + json.dumps({**record, "run": "0"}).encode() + b"\n")
    tests = pickle.dumps('[{"input": "1", "output": "2"}]', protocol=4)
    packed = zlib.compress(tests * 1)
    seed("unpack", "base64", b"\x00" + base64.b64encode(packed))
    seed("unpack", "deflate", b"\x01" + packed[2:])
    text = bytes(range(97, 123)) * 9 + b"abcab" * 50
    seed("unpack", "dynamic", b"\x01" + zlib.compress(text)[2:])
    seed("unpack", "pickle", b"\x02" + tests)
    for number, text in enumerate(("Sure:\n```python\ndef f(x):\n    return x\n```\nDone.\n",
                                   "    return a\n```\nmore\n", "```c\nint max(int a, int b)\n{\n"
                                   "  return a;\n}\n```\n```\nx\n```")):
        seed("postprocess", f"answer{number}", bytes([3 + 4 * number]) + text.encode())
    seed("postprocess", "java", b"\0import org.javatuples.*;\npublic class A { Pair<B, C> p; }\n"
         b"class D { static void main() {} }")

    def collected(name, content, executable=0):
        return struct.pack("<QII", len(content), len(name), executable) + name + content
    seed("collect", "two", collected(b"a.out", b"ELF", 1) + collected(b"d/b.class", b"x" * 40))
    seed("collect", "placed", collected(b"main.c", b"x"))


def program_seeds():
    for number in range(6):
        seed("tokenizer", f"vocabulary{number}", bytes([number]) +
             "Hello  world, it's 12345 \u00e9\U0001f600\n\n\tdef f(x):\r\n<|im_end|>".encode())
    seed("prompts", "prompts", b'\x00{"prompt": "def f(x):", "id": 7}\n\n{"prompt":"a\\nb"}\r\n')
    seed("prompts", "chat", b'\x01hello\nab\\\ncd\n"""\nx\n<|im_start|>y\n"""\n/reset\n')
    code = {
        0: '#include <a.h>\n/* c "x" */\nint f(void) { return \'"\'; } // e\nassert(x);\n',
        1: 'class A { std::string s = R"x(/* no */)x"; };\n#ifdef B\n// c\n#endif\n',
        2: 'using A;\n/// <summary>\nclass B { string s = @"a""b"; } /* c */\n',
        3: 'package a\nimport (\n "b"\n)\n// c\nfunc f() { s := `/* x */`; var a int = 1 }\n',
        4: 'import a.b;\n/** d */\npublic class A { int x = 0; char c = \'\\\'\'; } // e\n',
        5: 'import a\n"""doc"""\n# c\ndef f(x):\n    pass\n    print(f"{x}" + \'y\')\n',
        6: "SELECT 'a''b' -- c\n/* d */ FROM t;\n", 7: '<p>x<?php // c\n$a = "b"; # d\n?>y\n',
        8: '#!/bin/sh\n# c\na="b # c"\ncat <<E\n# no\nE\n',
        9: '<!-- c --><html><script>var a = 1; // d\n</script><style>/* e */</style>t</html>',
        10: "<template><!-- c --></template><script>let a = `b`</script>",
        11: "// c\nvar a = /[/]/g, b = `x${1 /* y */}z`; console.log('b');\n",
        15: "# A heading\n\nThe words of a text, and the lines of it. \u4e2d\u6587 http://a.b/c\n",
    }
    for number, text in code.items():
        seed("signals", f"language{number}", bytes([number, 1]) + text.encode())
    seed("signals", "encoded", bytes([5, 0]) + b'x = "' + b"QUJD" * 20 + b'"\ny = "'
         + b"\\x41\\x42" * 12 + b'"\nz = [' + b"0x41, 0x42, " * 12 + b"]\n" + b"\\u0041" * 9)
    seed("pii", "all", b"\x00/* Copyright (c) 2020 A. Author <a.author@example.com>\n * All rights "
         b"reserved. */\nint ip[] = \"192.0.2.17\"; // 2001:db8::1\nkey = \"AKIA1234567890ABCDEF\";"
         b"\npassword = 'x9!kQ2#pLm';\nurl = ftp://me:secret12@host/\n@author Jane Doe\n")
    seed("pii", "pem", b"\x02#!/usr/bin/python\n# License: MIT\n-----BEGIN RSA PRIVATE KEY-----\n"
         b"MIIEpAIBAAKCAQEA0\n-----END RSA PRIVATE KEY-----\ntoken=ghp_0123456789abcdefghij"
         b"klmnopqrstuvwxyz\n")


def main():
    shutil.rmtree(SEEDS, ignore_errors=True)
    for make in (gguf_seeds, hf_seeds, vocabulary_seeds, training_seeds,
                 conversation_seeds, text_seeds, web_seeds, evaluation_seeds, program_seeds):
        make()
    total = sum(os.path.getsize(os.path.join(place, name))
                for place, _, names in os.walk(SEEDS) for name in names)
    print(f"{total} bytes in {SEEDS}")


if __name__ == "__main__":
    main()
