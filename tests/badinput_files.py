"""badinput_files.py: tiny valid files of every format, built so that any part of them can be wrong.

The model in all of them says the alphabet. Token i has the embedding e_i (a one in place i), the
layers add next to nothing, and row j of the output head is the sum of e_i over all i that j comes
after: `b` after `a`, and so on to `z`, which <|im_end|> follows; `a` after everything else. Right
output can therefore be known without a reference, and what was read wrongly says something else.

    <unk> <s> </s> U+2581 a b ... z <|im_start|> <|im_end|>        the 32 tokens of TOKENS"""

import functools
import json
import random
import struct

DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, CONTEXT = 32, 4, 2, 2, 1, 2, 64
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPACE = "\u2581".encode()
TOKENS = [(b"<unk>", 0.0, UNKNOWN), (b"<s>", 0.0, CONTROL), (b"</s>", 0.0, CONTROL),
          (SPACE, -1.0, NORMAL)] + \
         [(letter.encode(), -2.0 - i, NORMAL) for i, letter in enumerate(LETTERS)] + \
         [(b"<|im_start|>", 0.0, CONTROL), (b"<|im_end|>", 0.0, CONTROL)]
BYTES = [(b"<0x%02X>" % i, 0.0, BYTE) for i in range(256)]  # more tokens, for byte fallback
UNK, BOS, EOS, A, IM_START, IM_END = 0, 1, 2, 4, 30, 31
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\n" \
      b"size 3087467144\n"


def one_hot(rows, place):
    """`rows` rows of DIM numbers with a one in place(row), or none."""
    return [float(place(row) == column) for row in range(rows) for column in range(DIM)]


def successor(token):
    """What comes after a token."""
    return IM_END if token == A + 25 else token + 1 if A <= token < A + 25 else A


@functools.lru_cache
def weights(rows=len(TOKENS)):
    """{name in GGUF: (dimensions as in memory, numbers)} in the order of the file."""
    noise = random.Random(2411)

    def matrix(n, m, scale):
        return (n, m), [noise.uniform(-scale, scale) for _ in range(n * m)]

    tensors = {"token_embd.weight": ((rows, DIM), one_hot(rows, lambda row: row))}
    for i in range(LAYERS):
        for name, value in {
                "attn_norm": ((DIM,), [1.0] * DIM), "attn_q": matrix(HEADS * HEAD_DIM, DIM, 1),
                "attn_k": matrix(KV_HEADS * HEAD_DIM, DIM, 1),
                "attn_v": matrix(KV_HEADS * HEAD_DIM, DIM, 1),
                "attn_output": matrix(DIM, HEADS * HEAD_DIM, 1e-3),
                "ffn_norm": ((DIM,), [1.0] * DIM),
                "ffn_gate": matrix(HIDDEN, DIM, 1), "ffn_up": matrix(HIDDEN, DIM, 1),
                "ffn_down": matrix(DIM, HIDDEN, 1e-3)}.items():
            tensors[f"blk.{i}.{name}.weight"] = value
    tensors["output_norm.weight"] = ((DIM,), [1.0] * DIM)
    tensors["output.weight"] = ((rows, DIM), [float(successor(column) == row)
                                              for row in range(rows) for column in range(DIM)])
    return tensors


def floats(numbers):
    return struct.pack(f"<{len(numbers)}f", *numbers)


def half(numbers):
    return struct.pack(f"<{len(numbers)}e", *numbers)


def bfloat(numbers):
    return b"".join(struct.pack("<f", x)[2:] for x in numbers)


def q8_0(numbers):
    """Blocks of 32 with a scale of 1/64: exact for zeros and ones."""
    blocks = [numbers[i:i + 32] for i in range(0, len(numbers), 32)]
    return b"".join(half([1 / 64]) + bytes(round(x * 64) & 255 for x in block) for block in blocks)


CRC_TABLE = []
for index in range(256):
    for _ in range(8):
        index = index >> 1 ^ 0x82F63B78 * (index & 1)
    CRC_TABLE.append(index)


@functools.lru_cache(256)
def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


# ------------------------------------------------------------------------------------------- GGUF
U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARRAY, U64, I64, F64 = range(13)
CODES = "BbHhIif?  Qqd"
F16, Q4_0, Q8_0, BF16 = 1, 2, 8, 30  # storage types of tensors; F32 is 0
T_F32 = 0


class Raw(bytes):
    """A value that is written as it stands, whatever its type says."""


def text(s):
    s = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(s)) + s


def gguf_value(kind, value):
    if isinstance(value, Raw):
        return value
    if kind == ARRAY:
        item, items = value
        return struct.pack("<IQ", item, len(items)) + b"".join(gguf_value(item, x) for x in items)
    return text(value) if kind == STR else struct.pack("<" + CODES[kind], value)


class Gguf:
    """A model in the making: keys and tensors to be changed, then bytes(). What a change makes of
    the file's checksums is up to `checksums`: right, wrong (in the header), or none."""

    def __init__(self, tokens=tuple(TOKENS), checksums="right"):
        self.magic, self.version, self.checksums = b"GGUF", 3, checksums
        self.n_keys = self.n_tensors = None  # what the header says, if not the truth
        self.marks = []  # (what ends there, offset), after build
        self.keys = [
            ["general.architecture", STR, "llama"], ["general.alignment", U32, 32],
            ["llama.vocab_size", U32, len(tokens)], ["llama.context_length", U32, CONTEXT],
            ["llama.embedding_length", U32, DIM], ["llama.block_count", U32, LAYERS],
            ["llama.feed_forward_length", U32, HIDDEN], ["llama.attention.head_count", U32, HEADS],
            ["llama.attention.head_count_kv", U32, KV_HEADS],
            ["llama.attention.key_length", U32, HEAD_DIM],
            ["llama.attention.value_length", U32, HEAD_DIM],
            ["llama.rope.dimension_count", U32, HEAD_DIM], ["llama.rope.freq_base", F32, 10000.0],
            ["llama.attention.layer_norm_rms_epsilon", F32, 1e-5],
            ["tokenizer.ggml.model", STR, "llama"],
            ["tokenizer.ggml.tokens", ARRAY, (STR, [t[0] for t in tokens])],
            ["tokenizer.ggml.scores", ARRAY, (F32, [t[1] for t in tokens])],
            ["tokenizer.ggml.token_type", ARRAY, (I32, [t[2] for t in tokens])],
            ["tokenizer.ggml.bos_token_id", U32, BOS], ["tokenizer.ggml.eos_token_id", U32, EOS],
            ["tokenizer.ggml.add_bos_token", BOOL, False],
            ["tokenizer.ggml.add_space_prefix", BOOL, False]]
        self.tensors = [[name, shape[::-1], T_F32, floats(numbers)]
                        for name, (shape, numbers) in weights(len(tokens)).items()]
        self.offsets = {}  # offsets that are not where the bytes are
        self.gaps = {}  # bytes between a tensor and the next, instead of zeros

    def set(self, name, kind, value):
        """Changes a key or adds it."""
        for key in self.keys:
            if key[0] == name:
                key[1:] = kind, value
                return self
        self.keys.append([name, kind, value])
        return self

    def value(self, name):
        return next(key[2] for key in self.keys if key[0] == name)

    def drop(self, name):
        self.keys = [key for key in self.keys if key[0] != name]
        self.tensors = [tensor for tensor in self.tensors if tensor[0] != name]
        return self

    def item(self, name, place, value):
        """Changes one item of an array key."""
        kind, items = self.value(name)
        return self.set(name, ARRAY, (kind, [*items[:place], value, *items[place + 1:]]))

    def tensor(self, name):
        return next(tensor for tensor in self.tensors if tensor[0] == name)

    def store(self, name, kind, data):
        """Stores a tensor in another type."""
        self.tensor(name)[2:] = kind, data
        return self

    def poke(self, name, place, number):
        """Changes one number of an f32 tensor."""
        tensor = self.tensor(name)
        tensor[3] = tensor[3][:4 * place] + floats([number]) + tensor[3][4 * place + 4:]
        return self

    def align(self):
        return next((key[2] for key in self.keys if key[0] == "general.alignment"
                     and isinstance(key[2], int) and 8 <= key[2] <= 128), 32)

    def build(self):
        keys, align, entries, data, places = list(self.keys), self.align(), b"", b"", []
        if self.checksums != "none":
            sums = [crc32c(tensor[3]) for tensor in self.tensors]
            given = [key[0] for key in keys]
            if "opencoder.crc32c" not in given:
                keys.append(["opencoder.crc32c", ARRAY, (U32, sums)])
            keys.append(["opencoder.crc32c.header", U32, 0])
        self.marks = [("magic", 4), ("version", 8), ("tensor count", 16), ("key count", 24)]
        counts = (self.n_tensors, len(self.tensors)), (self.n_keys, len(keys))
        head = self.magic + struct.pack("<I", self.version) + \
            b"".join(struct.pack("<Q", real if lie is None else lie) for lie, real in counts)
        for name, kind, value in keys:
            head += text(name) + struct.pack("<I", kind) + gguf_value(kind, value)
            self.marks.append((f"key {name}", len(head)))
        for name, shape, kind, content in self.tensors:
            places.append(len(data))
            offset = self.offsets.get(name, len(data))
            entries += text(name) + struct.pack("<I", len(shape)) + \
                b"".join(struct.pack("<Q", n) for n in shape) + struct.pack("<IQ", kind, offset)
            data += content + self.gaps.get(name, b"")
            data += bytes(-len(data) % align)
            self.marks.append((f"entry {name}", len(head) + len(entries)))
        whole = head + entries + bytes(-len(head + entries) % align)
        self.marks.append(("padding", len(whole)))
        self.marks += [(f"tensor {tensor[0]}", len(whole) + place + len(tensor[3]))
                       for tensor, place in zip(self.tensors, places)]
        if self.checksums != "none":
            crc = crc32c(whole) ^ (self.checksums == "wrong")
            whole = whole[:len(head) - 4] + struct.pack("<I", crc) + whole[len(head):]
        return whole + data


ALPHA = 6.0
STORE = {T_F32: floats, F16: half, BF16: bfloat, Q8_0: q8_0}


def adapter(weights, rank=3, alpha=ALPHA, kind=T_F32, strength=0.15, flat=False, seed=7):
    """An adapter for {weight's name: (rows, columns)}; rank may be a function of the name. flat: a
    lora_a of rank 1 has one dimension, as GGUF's own library writes it."""
    noise = random.Random(seed)
    g = Gguf()
    g.keys = [["general.architecture", STR, "llama"], ["general.type", STR, "adapter"],
              ["adapter.type", STR, "lora"], ["adapter.lora.alpha", F32, alpha]]
    g.tensors = []
    for name, (rows, cols) in weights.items():
        r = rank(name) if callable(rank) else rank
        a = [noise.gauss(0, 1) * cols ** -0.5 for _ in range(r * cols)]
        b = [noise.gauss(0, strength) for _ in range(rows * r)]
        g.tensors.append([name + ".lora_a", (cols,) if flat else (cols, r), kind, STORE[kind](a)])
        g.tensors.append([name + ".lora_b", (r, rows), kind, STORE[kind](b)])
    return g


# ------------------------------------------------------------------------- Hugging Face directory
def hf_names():
    """{name in GGUF: name in Hugging Face}"""
    parts = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj",
             "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
             "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    names = {"token_embd.weight": "model.embed_tokens.weight",
             "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}
    for i in range(LAYERS):
        names.update({f"blk.{i}.{ours}.weight": f"model.layers.{i}.{theirs}.weight"
                      for ours, theirs in parts.items()})
    return names


@functools.lru_cache
def hf_weights():
    """{name in Hugging Face: (dimensions, f32 bytes)}; q and k stay in GGUF's order of rows, which
    makes no difference to what the model says."""
    return {hf_names()[name]: (shape, floats(numbers))
            for name, (shape, numbers) in weights().items()}


def hf_config(**more):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "hidden_size": DIM, "intermediate_size": HIDDEN, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
            "vocab_size": len(TOKENS), "max_position_embeddings": CONTEXT, "rope_theta": 10000.0,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "torch_dtype": "float32",
            "bos_token_id": BOS, "eos_token_id": EOS, **more}


def to_json(value):
    return json.dumps(value).encode()


def safetensors_header(tensors):
    """{name: {dtype, shape, data_offsets}} of {name: (shape, bytes)}, one behind the other."""
    header, end = {}, 0
    for name, (shape, data) in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(shape),
                        "data_offsets": [end, end + len(data)]}
        end += len(data)
    return header


def safetensors_bytes(header, data, length=None):
    """The file; header is an object or the text itself, length what the file says of it."""
    header = header if isinstance(header, bytes) else to_json(header)
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def safetensors(tensors=None):
    tensors = hf_weights() if tensors is None else tensors
    return safetensors_bytes(safetensors_header(tensors),
                             b"".join(data for _, data in tensors.values()))


@functools.lru_cache
def right_files():
    return {"config.json": to_json(hf_config()), "model.safetensors": safetensors(),
            "tokenizer.model": sentencepiece(),
            "tokenizer_config.json": to_json({"tokenizer_class": "LlamaTokenizer",
                                              "add_bos_token": False, "add_prefix_space": False})}


def hf_directory(**changes):
    """{path: bytes} of a checkpoint in hf/. A change is the bytes or the JSON value of a file, its
    dots written as __; None leaves the file out."""
    files = dict(right_files())
    for name, content in changes.items():
        if not isinstance(content, (bytes, type(None))):
            content = to_json(content)
        files[name.replace("__", ".")] = content
    return {f"hf/{name}": content for name, content in files.items() if content is not None}


# ----------------------------------------------------------------------------------- SentencePiece
def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number, value):
    """A field of a protobuf message: an int is a varint, a float 4 bytes, bytes are bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value & 2 ** 64 - 1)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(name, score, kind):
    return field(1, field(1, name) + field(2, score) + field(3, kind))


def sentencepiece(pieces=tuple(TOKENS), trainer=None, normalizer=None, more=b""):
    """A tokenizer.model; trainer and normalizer are {field: value} over the defaults here."""
    trainer = {3: 2, 35: int(any(p[2] == BYTE for p in pieces)), **(trainer or {})}
    normalizer = {3: 0, 4: 0, 5: 1, **(normalizer or {})}
    return b"".join(piece(*p) for p in pieces) + \
        field(2, b"".join(field(k, v) for k, v in trainer.items())) + \
        field(3, b"".join(field(k, v) for k, v in normalizer.items())) + more


# --------------------------------------------------------------------------------- PyTorch archive
class Zip:
    """An archive of stored entries as torch.save writes it; any field can be made to lie."""

    def __init__(self, entries):
        self.entries = [dict(name=name, data=data, method=0, flags=0, size=None, packed=None,
                             offset=None, local_name=None, name_size=None, extra=b"")
                        for name, data in entries]
        self.end = {}  # fields of the end record that lie: n, size, offset
        self.tail = b""
        self.comment = b""
        self.wide = None  # (n, size, offset) of a ZIP64 end record
        self.wide_at = None  # where that record is said to be, if not where it is

    def entry(self, which, **changes):
        next(e for e in self.entries if e["name"].endswith(which)).update(changes)
        return self

    def build(self):
        out, directory = b"", b""
        for e in self.entries:
            name, local = e["name"].encode(), (e["local_name"] or e["name"]).encode()
            size = len(e["data"]) if e["size"] is None else e["size"]
            packed = size if e["packed"] is None else e["packed"]
            offset = len(out) if e["offset"] is None else e["offset"]
            fixed = struct.pack("<HHIIII", e["flags"], e["method"], 0, 0, packed, size)
            pad = bytes(-(len(out) + 30 + len(local)) % 64)
            out += b"PK\3\4\0\0" + fixed + struct.pack("<HH", len(local), len(pad)) + local + pad
            out += e["data"]
            directory += b"PK\1\2\0\0\0\0" + fixed + \
                struct.pack("<HHHHHII", e["name_size"] or len(name), len(e["extra"]), 0, 0, 0, 0,
                            offset) + name + e["extra"]
        end = {"n": len(self.entries), "size": len(directory), "offset": len(out), **self.end}
        at = len(out) + len(directory)
        if self.wide:
            directory += b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, self.wide[0],
                                                 *self.wide)
            directory += b"PK\6\7" + struct.pack("<IQI", 0, self.wide_at or at, 1)
        return out + directory + b"PK\5\6\0\0\0\0" + \
            struct.pack("<HHIIH", end["n"], end["n"], end["size"], end["offset"],
                        len(self.comment)) + self.comment + self.tail


def pickle_text(s):
    return b"X" + struct.pack("<I", len(s)) + s.encode()


def pickle_int(n):
    return b"K" + bytes([n]) if 0 <= n < 256 else b"J" + struct.pack("<i", n) \
        if abs(n) < 2 ** 31 else b"\x8a\x08" + struct.pack("<q", n)


def pickle_tuple(items):
    return b"(" + b"".join(items) + b"t"


def pickle_tensor(storage, shape, count=None, offset=0, strides=None, kind="FloatStorage",
                  call=b"ctorch._utils\n_rebuild_tensor_v2\n"):
    if strides is None:
        strides = (shape[1], 1) if len(shape) == 2 else (1,) * len(shape)
    numbers = 1
    for n in shape:
        numbers *= n
    storage = pickle_tuple([pickle_text("storage"), b"ctorch\n" + kind.encode() + b"\n",
                            pickle_text(storage), pickle_text("cpu"),
                            pickle_int(numbers if count is None else count)]) + b"Q"
    return call + pickle_tuple([storage, pickle_int(offset),
                                pickle_tuple([pickle_int(n) for n in shape]),
                                pickle_tuple([pickle_int(n) for n in strides]), b"\x89",
                                b"ccollections\nOrderedDict\n)R"]) + b"R"


def pickle_dict(items):
    """The program of a state_dict; items are (name, program of the value)."""
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + \
        b"".join(pickle_text(name) + value for name, value in items) + b"u."


def torch_items(tensors=None):
    """[(name, program)] with the storages "0", "1", ... in order."""
    return [(name, pickle_tensor(str(i), shape))
            for i, (name, (shape, _)) in enumerate((tensors or hf_weights()).items())]


def torch_zip(program=None):
    entries = [("m/data.pkl", program or pickle_dict(torch_items())), ("m/byteorder", b"little")]
    entries += [(f"m/data/{i}", data) for i, (_, data) in enumerate(hf_weights().values())]
    return Zip(entries)


# ---------------------------------------------------------------------------------------- llama2.c
OLD_TOKENS = [(b"<unk>", 0.0), (b"\n<s>\n", 0.0), (b"\n</s>\n", 0.0)] + \
             [(token, 0.0) for token, _, _ in BYTES] + \
             [(b" ", -1.0)] + [(c.encode(), -2.0 - i) for i, c in enumerate(LETTERS)]
OLD_A = 260
OLD = {"dim": DIM, "hidden": HIDDEN, "layers": LAYERS, "heads": 2, "kv_heads": 1,
       "vocab": len(OLD_TOKENS), "context": CONTEXT}
OLD_ORDER = ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate",
             "ffn_down", "ffn_up"]


@functools.lru_cache
def old_weights():
    """As weights(), with heads of dim / heads as llama2.c has them, and letters from OLD_A on."""
    noise = random.Random(350)
    shape = {"attn_norm": (1, DIM), "ffn_norm": (1, DIM), "attn_q": (DIM, DIM),
             "attn_k": (DIM // 2, DIM), "attn_v": (DIM // 2, DIM), "attn_output": (DIM, DIM),
             "ffn_gate": (HIDDEN, DIM), "ffn_up": (HIDDEN, DIM), "ffn_down": (DIM, HIDDEN)}

    def matrix(kind):
        n = shape[kind][0] * shape[kind][1]
        scale = 1e-4 if kind in ("attn_output", "ffn_down") else 1
        return [1.0] * n if "norm" in kind else [noise.uniform(-scale, scale) for _ in range(n)]

    rows = len(OLD_TOKENS)
    made = {kind: [matrix(kind) for _ in range(LAYERS)] for kind in OLD_ORDER}
    made["emb"] = one_hot(rows, lambda row: row - OLD_A + 4)
    made["out"] = one_hot(rows, lambda row: row - OLD_A + 3)
    made["norm"] = [1.0] * DIM
    return made


def groups(numbers, size):
    """int8 numbers and their factors, as version 2 stores a tensor."""
    parts = [numbers[i:i + size] for i in range(0, len(numbers), size)]
    factors = [max(max(map(abs, part)) / 127, 1e-9) for part in parts]
    return bytes(round(x / f) & 255 for part, f in zip(parts, factors) for x in part) + \
        floats(factors)


def llama2c(version=0, group=32, tail=b"", numbers=None, shared=0, magic=b"24ka", zeros=None,
            said=None, **header):
    """A llama2.c model of version 0, 1 or 2; header changes one of its seven numbers."""
    w = old_weights()
    seven = {**OLD, **header}
    if version == 0 and "vocab" not in header:
        seven["vocab"] = -seven["vocab"]  # an output head of its own
    start = struct.pack("<7i", *seven.values())
    weight = floats if version < 2 else (lambda numbers: groups(numbers, 32))
    if version == 0:
        parts = [w["emb"]] + [layer for kind in OLD_ORDER for layer in w[kind]] + \
            [w["norm"], [0.0] * (CONTEXT * (DIM // 2)), w["out"]]
        data = b"".join(map(floats, parts))
    else:
        norms = w["attn_norm"] + w["ffn_norm"] + [w["norm"]]
        parts = [w["emb"]] + [layer for kind in OLD_ORDER if "norm" not in kind
                              and kind != "ffn_down" and kind != "ffn_up" for layer in w[kind]]
        parts += w["ffn_down"] + w["ffn_up"] + [w["out"]]
        start = magic + struct.pack("<i", version if said is None else said) + start + \
            bytes([shared]) + (struct.pack("<i", group) if version == 2 else b"")
        start += bytes(256 - len(start)) if zeros is None else zeros
        data = b"".join(map(floats, norms)) + b"".join(map(weight, parts))
    return start + (data if numbers is None else numbers) + tail


def old_token(token, score, length=None):
    return struct.pack("<fi", score, len(token) if length is None else length) + token


def old_tokenizer(tokens=None, longest=None, tail=b""):
    """tokenizer.bin; tokens are (bytes, score) or (bytes, score, the length that the file says)."""
    tokens = OLD_TOKENS if tokens is None else tokens
    longest = max(len(t[0]) for t in tokens) if longest is None else longest
    return struct.pack("<I", longest) + b"".join(old_token(*t) for t in tokens) + tail
