"""badinput_hf.py: Hugging Face directories: safetensors, PyTorch archives, JSON files."""

import math
import random
import struct

from badinput_case import accept, reject
from badinput_files import (BYTES, DIM, LFS, TOKENS, Zip, hf_config, hf_directory, hf_weights,
                            pickle_dict, pickle_int, pickle_tensor, pickle_text, pickle_tuple,
                            safetensors, safetensors_bytes, safetensors_header, sentencepiece,
                            to_json, torch_items, torch_zip)

CONVERT = "convert hf OUT"
EMBED, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
Q = "model.layers.1.self_attn.q_proj.weight"


def right(name, **changes):
    return accept(f"hf: {name}", "convert hf OUT && run OUT -i a -n 3", hf_directory(**changes),
                  b"abcd\n", made=["OUT"])


def wrong(name, *words, **changes):
    return reject(f"hf: {name}", CONVERT, hf_directory(**changes), *words)


# ------------------------------------------------------------------------------------ safetensors
def tensor_file(name, header, *words, data=None, length=None):
    """A directory with a safetensors file of that header over the right data."""
    if data is None:
        data = b"".join(content for _, content in hf_weights().values())
    return wrong(f"safetensors: {name}", "model.safetensors", *words,
                 model__safetensors=safetensors_bytes(header, data, length))


def entry(name, change, *words):
    """One entry of the header is changed by change(entry)."""
    header = safetensors_header(hf_weights())
    header[EMBED] = change(header[EMBED])
    return tensor_file(name, header, EMBED, *words)


def safetensors_syntax():
    header = safetensors_header(hf_weights())
    line = to_json(header)
    data = b"".join(content for _, content in hf_weights().values())
    size = len(line)
    yield right("control")
    yield right("safetensors: spaces behind the header", model__safetensors=safetensors_bytes(
        line + b"   ", data))
    yield right("safetensors: metadata", model__safetensors=safetensors_bytes(
        {"__metadata__": {"format": "pt", "": ""}, **header}, data))
    for name, content, words in (
            ("empty", b"", ("empty",)), ("1 byte", b"\0", ("1 bytes",)),
            ("7 bytes", b"\0" * 7, ("7 bytes",)),
            ("only a length", struct.pack("<Q", size), (size,)),
            ("LFS pointer", LFS, ("LFS pointer",)),
            ("an error page", b"<!DOCTYPE html>" + b" " * 100, ("header",)),
            ("64 KB of noise", random.Random(2).randbytes(65536), ("header",))):
        yield wrong(f"safetensors: {name}", "model.safetensors", *words, model__safetensors=content)
    for length in 0, 1, size - 1, size + 1, 10 ** 8 + 1, 2 ** 31, 2 ** 32, 2 ** 63, 2 ** 64 - 8, \
            2 ** 64 - 1:
        yield tensor_file(f"header length {length}", line, length=length)
    whole = safetensors()
    for at in 8, 8 + size // 2, 8 + size, 9 + size, len(whole) // 2, len(whole) - 4, len(whole) - 1:
        yield wrong(f"safetensors: cut off at {at}", "model.safetensors",
                    model__safetensors=whole[:at])
    for name, text in (("a space in front", b" " + line), ("text behind the brace", line + b"x"),
                       ("two objects", line + b"{}"), ("NUL behind the brace", line + b"\0"),
                       ("a list", b"[1]"), ("null", b"null"), ("an open brace", b"{"),
                       ("a comma at the end", line[:-1] + b",}"), ("single quotes", b"{'a':1}"),
                       ("a byte-order mark", b"\xef\xbb\xbf" + line),
                       ("a NUL in it", line.replace(b"F32", b"F\x0032", 1)),
                       ("bytes that are not UTF-8", line.replace(b"F32", b"F\xff2", 1)),
                       ("half a surrogate pair", line.replace(b"F32", b"\\ud800", 1)),
                       ("100000 brackets", b'{"a":' + b"[" * 100000),
                       ("100000 nested objects", b'{"a":' * 100000 + b"1" + b"}" * 100000)):
        yield tensor_file(name, text, "header")
    yield tensor_file("a name twice", line[:-1] + b"," + to_json({EMBED: header[EMBED]})[1:],
                      EMBED, "twice")
    yield tensor_file("dtype twice in an entry",
                      line.replace(b'"dtype"', b'"dtype":"F16","dtype"', 1),
                      "dtype", "twice")
    yield tensor_file("metadata with a number", {"__metadata__": {"a": 1}, **header},
                      "__metadata__")
    yield tensor_file("metadata as text", {"__metadata__": "pt", **header}, "__metadata__")
    yield wrong("safetensors: no tensors", "missing",
                model__safetensors=safetensors_bytes(b"{}", b""))
    yield tensor_file("no tensors over data", b"{}", len(data))


def safetensors_entries():
    big = DIM * DIM * 4

    def dtype(value):
        return lambda e: {**e, "dtype": value}

    def shape(value):
        return lambda e: {**e, "shape": value}

    def offsets(value):
        return lambda e: {**e, "data_offsets": value}

    for value in "F33", "f32", "float32", "", "F4":
        yield entry(f"dtype {value!r}", dtype(value), "dtype")
    for value in 32, None, ["F32"]:
        yield entry(f"dtype {value!r}", dtype(value), "dtype", "string")
    for value in "F64", "I8", "BOOL", "F16", "C64":
        yield entry(f"dtype {value} over f32 data", dtype(value), value, big)
    for value in ([DIM], [DIM, DIM + 1], [DIM - 1, DIM], [0, DIM], [], [DIM, 2 ** 31], [2 ** 63, 2],
                  [-DIM, -DIM], [-1, DIM], [2.5, DIM], [2 ** 31 - 1, 2 ** 31 - 1], ["32", 32],
                  [None, DIM], [[DIM], DIM], [1e300, 1]):
        yield entry(f"shape {value}", shape(value))
    header = safetensors_header(hf_weights())
    header[EMBED].update(dtype="F64", shape=[DIM, DIM // 2])
    yield wrong("safetensors: a weight of f64", EMBED, "type f64", model__safetensors=(
        safetensors_bytes(header, b"".join(data for _, data in hf_weights().values()))))
    yield entry("3 dimensions", shape([DIM, DIM, 1]), "3 dimensions")
    yield entry("1000 dimensions", shape([1] * 1000), "1000 dimensions")
    for value in 5, "32", {"0": 32}, None:
        yield entry(f"shape {value!r}", shape(value), "shape", "array")
    for value in ([], [0], [0, 1, 2], [big, 0], [-4, big - 4], [0, big + 10 ** 6], [0, 2 ** 63 - 1],
                  [2 ** 63, 2 ** 63 + big], [2 ** 64 - big, 2 ** 64], [0.5, big + 0.5],
                  ["0", str(big)],
                  [None, big], [[0], [big]]):
        yield entry(f"offsets {value}", offsets(value), "data_offsets")
    yield entry("offsets as text", offsets("0,4096"), "data_offsets", "array")
    for missing in "dtype", "shape", "data_offsets":
        yield entry(f"no {missing}",
                    lambda e, key=missing: {k: v for k, v in e.items() if k != key},
                    missing, "missing")
    yield entry("an empty entry", lambda e: {}, "missing")
    for value in [], 1, None, "x":
        yield entry(f"entry {value!r}", lambda e, v=value: v)


def safetensors_layout():
    tensors = hf_weights()
    header = safetensors_header(tensors)
    end = sum(len(content) for _, content in tensors.values())
    first, second = list(tensors)[:2]

    def moved(name, by):
        begin, stop = header[name]["data_offsets"]
        return {**header, name: {**header[name], "data_offsets": [begin + by, stop + by]}}

    yield tensor_file("two tensors overlap", moved(second, -4), second)
    yield tensor_file("two tensors share their bytes", {
        **header, second: {**header[second], "data_offsets": [0, 4 * DIM]}})
    yield tensor_file("a hole between tensors", moved(second, 4), data=bytes(end + 4))
    hole = {name: {**e, "data_offsets": [x + 8 for x in e["data_offsets"]]} for name,
            e in header.items()}
    yield tensor_file("a hole in front", hole, first, "8", data=bytes(end + 8))
    yield tensor_file("8 bytes more behind", header, end + 8, data=bytes(end + 8))
    yield tensor_file("8 bytes less", header, "truncated", data=bytes(end - 8))
    yield right("safetensors: entries in another order", model__safetensors=safetensors_bytes(
        dict(reversed(header.items())), b"".join(content for _, content in tensors.values())))

    def with_tensors(**more):
        return safetensors({**tensors, **{k.replace("__", "."): v for k, v in more.items()}})

    yield right("safetensors: inv_freq", model__safetensors=with_tensors(
        model__layers__0__self_attn__rotary_emb__inv_freq=((1,), bytes(4))))
    for name in ("model.layers.0.self_attn.q_proj.bias", "model.layers.2.mlp.up_proj.weight", "x",
                 "model.layers.0.mlp.experts.0.up_proj.weight", "", "a\nb"):
        yield wrong(f"safetensors: a tensor {name!r}", "not part of a Llama model",
                    model__safetensors=safetensors({**tensors, name: ((DIM,), bytes(4 * DIM))}))
    for name in EMBED, NORM, HEAD, Q, "model.layers.0.input_layernorm.weight":
        less = {key: value for key, value in tensors.items() if key != name}
        yield wrong(f"safetensors: no {name}", name, "missing",
                    model__safetensors=safetensors(less))
        cut = tensors[name][1][:-4 * DIM] + bytes(4 * DIM)
        shape = tensors[name][0]
        shape = shape[::-1] if len(shape) == 2 and shape[0] != DIM else (len(cut) // 8, 2)
        yield wrong(f"safetensors: {name} of another shape", name, "shape",
                    model__safetensors=safetensors({**tensors, name: (shape, cut)}))
    for value, said in (math.nan, "nan"), (math.inf, "inf"):
        content = tensors[EMBED][1][:40] + struct.pack("<f", value) + tensors[EMBED][1][44:]
        yield wrong(f"safetensors: a weight {said}", "token_embd", "row 0, column 10", said,
                    model__safetensors=safetensors({**tensors, EMBED: ((DIM, DIM), content)}))
    yield wrong("tied, with another head", HEAD, "tie_word_embeddings",
                config__json=hf_config(tie_word_embeddings=True))


def tied():
    """The head is the embedding: every letter follows itself."""
    def directory(head, dtype="F32"):
        tensors = {**hf_weights(), HEAD: head}
        header = safetensors_header(tensors)
        header[HEAD]["dtype"] = dtype
        return hf_directory(
            config__json=hf_config(tie_word_embeddings=True), model__safetensors=safetensors_bytes(
                header, b"".join(data for _, data in tensors.values())))

    size, data = hf_weights()[EMBED]
    yield accept("hf: tied, with the same head", "convert hf OUT && run OUT -i a -n 3",
                 directory((size, data)), b"aaaa\n", made=["OUT"])
    for name, head in (("fewer rows", ((size[0] - 1, DIM), data[4 * DIM:])),
                       ("fewer columns", ((size[0], DIM // 2), data[:len(data) // 2])),
                       ("f16", (size, data[:len(data) // 2]))):
        yield reject(f"hf: tied, with a head of {name}", CONVERT,
                     directory(head, "F16" if name == "f16" else "F32"), HEAD, "differs")


def shards():
    """Several files and an index."""
    tensors = hf_weights()
    names = list(tensors)
    parts = {"a.safetensors": names[:7], "b.safetensors": names[7:]}
    files = {file: safetensors({name: tensors[name] for name in part}) for file,
             part in parts.items()}
    places = {name: file for file, part in parts.items() for name in part}

    def directory(index, **more):
        made = {**files, "model.safetensors.index.json": index, **more}
        return hf_directory(model__safetensors=None, **made)

    def index(name, weight_map, *words, **more):
        return reject(f"hf: index: {name}", CONVERT, directory({"weight_map": weight_map}, **more),
                      *words)

    yield accept("hf: index: control", "convert hf OUT && run OUT -i a -n 3",
                 directory({"metadata": {"total_size": 1}, "weight_map": places}), b"abcd\n",
                 made=["OUT"])
    yield index("a file is missing", {**places, EMBED: "c.safetensors"}, "c.safetensors")
    yield index("no entries", {}, "missing")
    yield index("one file left out", {name: f for name, f in places.items() if f[0] == "a"},
                "missing")
    yield index("a tensor that no file has", {**places, "more.weight": "a.safetensors"},
                "more.weight")
    yield index("a tensor in the wrong file", {**places, EMBED: places[HEAD]}, EMBED)
    yield index("a tensor in two files", places, "twice", **{"b.safetensors": safetensors(
        {name: tensors[name] for name in names[6:]})})
    yield index("a file cut off", places, "b.safetensors",
                **{"b.safetensors": files["b.safetensors"][:-100]})
    yield index("an empty file", places, "b.safetensors", "empty", **{"b.safetensors": b""})
    yield index("an LFS pointer", places, "b.safetensors", "LFS", **{"b.safetensors": LFS})
    for place in "../a.safetensors", "/etc/passwd", "", ".", "..", "sub/a.safetensors", "a\0b", \
            "a\nb", 5, None, ["a.safetensors"], "x" * 5000:
        yield index(f"place {str(place)[:30]!r}", {**places, EMBED: place})
    for name, content in (("no weight_map", {}), ("weight_map a list", {"weight_map": []}),
                          ("weight_map a text", {"weight_map": "a"}), ("a list", []),
                          ("cut off", to_json({"weight_map": places})[:-20]), ("empty", b""),
                          ("LFS pointer", LFS)):
        yield reject(f"hf: index: {name}", CONVERT, directory(content), "index.json")
    yield wrong("no weights at all", "no weights", model__safetensors=None)
    empty = safetensors_bytes(b"{}", b"")
    names = {f"{i}": f"{i}.safetensors" for i in range(1025)}
    yield index("more than 1024 files", names, "1024", **dict.fromkeys(names.values(), empty))


# ------------------------------------------------------------------------------------ config.json
def configs():
    def config(name, *words, **changes):
        return wrong(f"config: {name}", "config.json", *words, config__json=hf_config(**changes))

    for key in ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers",
                "num_attention_heads", "vocab_size"):
        less = {k: v for k, v in hf_config().items() if k != key}
        yield wrong(f"config: no {key}", "config.json", key, "missing", config__json=less)
    numbers = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
               "vocab_size", "num_key_value_heads", "head_dim", "max_position_embeddings")
    for key in numbers:
        for value in 0, -1, 2 ** 31, 2 ** 62:
            yield config(f"{key} {value}", key, value, **{key: value})
        for value in 2.5, 1e300, 2 ** 70, 10 ** 400:
            yield config(f"{key} {str(value)[:30]}", **{key: value})
        for value in "32", True, [32], {"a": 32}:
            yield config(f"{key} {value!r}", key, "a number", **{key: value})
    for key in "hidden_size", "vocab_size":
        yield config(f"{key} null", key, **{key: None})
    for key, value, word in (
            ("hidden_size", 64, EMBED), ("intermediate_size", 5, "gate_proj"),
            ("num_hidden_layers", 3, "layers.2"), ("num_hidden_layers", 1, "layers.1"),
            ("num_key_value_heads", 2, "k_proj"), ("head_dim", 4, "q_proj"),
            ("vocab_size", 33, EMBED),
            ("vocab_size", 31, EMBED)):
        yield wrong(f"config: {key} {value}, tensors unchanged", word,
                    config__json=hf_config(**{key: value}))
    yield config("3 heads, 2 key heads", "3 heads", num_attention_heads=3, num_key_value_heads=2)
    yield config("head_dim 3", "3", "even", head_dim=3)
    for key in "rope_theta", "rms_norm_eps":
        for value in 0, -1, "1e4", True, [1]:
            yield config(f"{key} {value!r}", **{key: value})
        for text in b"1e999", b"-1e999", b"NaN", b"Infinity", b"1e39":
            yield wrong(f"config: {key} {text.decode()}", "config.json", config__json=to_json(
                hf_config(**{key: 77})).replace(b"77", text))
    changes = [("attention_bias", True), ("mlp_bias", True), ("sliding_window", 4096),
               ("quantization_config", {"bits": 4}), ("hidden_act", "gelu"), ("hidden_act", "relu"),
               ("rope_scaling", {"type": "linear", "factor": 2.0}),
               ("rope_scaling", {"rope_type": "yarn", "factor": 2.0}),
               ("rope_scaling", {"rope_type": "llama3", "factor": 8.0}),
               ("rope_scaling", "linear"), ("rope_scaling", 2.0), ("rope_scaling", []),
               ("rope_parameters", {"rope_type": "dynamic", "rope_theta": 10000.0}),
               ("partial_rotary_factor", 0.5), ("logit_scale", 0.5), ("embedding_multiplier", 12.0),
               ("final_logit_softcapping", 30.0), ("num_local_experts", 8), ("use_qk_norm", True),
               ("layer_types", ["full_attention", "sliding_attention"]), ("model_type", "qwen2"),
               ("model_type", "mistral"), ("model_type", 1), ("model_type", ""), ("hidden_act", 1),
               ("tie_word_embeddings", "no"), ("tie_word_embeddings", 1), ("attention_bias", "yes"),
               ("is_encoder_decoder", True),
               ("rope_parameters", {"full_attention": {"rope_type": "default"}}),
               ("use_sliding_window", "no"), ("layer_types", "full_attention"),
               ("layer_types", [1])]
    for key, value in changes:
        yield config(f"{key} {value!r}", key, **{key: value})
    for key, value in (("type", 5), ("rope_type", 5), ("rope_theta", "1e4"),
                       ("partial_rotary_factor", 0.5)):
        yield config(f"rope_parameters: {key} {value!r}", key, rope_parameters={key: value})
    yield right("config: rope_parameters", config__json=hf_config(
        rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}))
    yield right("config: nothing changes the model", config__json=hf_config(
        rope_scaling=None, attention_bias=False, sliding_window=None, mlp_bias=False,
        quantization_config=None, partial_rotary_factor=1.0, num_experts=0, other={"a": [1, 2]},
        use_sliding_window=False, layer_types=["full_attention"] * 2))
    yield right("config: a window that is not used", config__json=hf_config(
        use_sliding_window=False, sliding_window=4096))
    line = to_json(hf_config())
    for name, text in (("empty", b""), ("1 byte", b"{"), ("cut off", line[:-1]),
                       ("LFS pointer", LFS),
                       ("two objects", line + line), ("text behind it", line + b"x"),
                       ("a list", b"[]"),
                       ("null", b"null"), ("a text", b'"llama"'), ("noise", b"\xff\xfe" + line),
                       ("UTF-16", line.decode().encode("utf-16")), ("comments", b"// x\n" + line),
                       ("NaN", line[:-1] + b', "x": NaN}'),
                       ("a key twice", line[:-1] + b', "a":1, "a":2}'),
                       ("hidden_size twice", line[:-1] + b', "hidden_size": 64}'),
                       ("a key twice, escaped", line[:-1] + b', "a":1, "\\u0061":2}'),
                       ("1e999", line[:-1] + b', "x": 1e999}'), ("01", line[:-1] + b', "x": 01}'),
                       ("+1", line[:-1] + b', "x": +1}'), ("0x10", line[:-1] + b', "x": 0x10}'),
                       ("1.", line[:-1] + b', "x": 1.}'), (".5", line[:-1] + b', "x": .5}'),
                       ("1e", line[:-1] + b', "x": 1e}'), ("-", line[:-1] + b', "x": -}'),
                       ("a number of 100000 digits", line[:-1] + b', "x": ' + b"9" * 100000 + b"}"),
                       ("a control character", line[:-1] + b', "x": "a\nb"}'),
                       ("an unknown escape", line[:-1] + b', "x": "\\x41"}'),
                       ("a short escape", line[:-1] + b', "x": "\\u12"}'),
                       ("an escape at the end", line[:-1] + b', "x": "\\'),
                       ("half a surrogate pair", line[:-1] + b', "x": "\\udc00"}'),
                       *((f"a pair of {second.decode()!r}", line[:-1] + b', "x": "\\ud83d' +
                          second + b'"}') for second in (b"x", b"xxxxxx", b"\\n12345", b"\\u12",
                                                         b"\\u12xx", b"\\ud83d", b"\\ue000")),
                       ("a NUL escaped", line[:-1] + b', "x": "\\\0"}'),
                       ("half a surrogate in UTF-8", line[:-1] + b', "x": "\xed\xa0\x80"}'),
                       ("beyond U+10FFFF", line[:-1] + b', "x": "\xf4\x90\x80\x80"}'),
                       ("a number at the end", line[:-1] + b', "x": 1'),
                       ("a minus at the end", line[:-1] + b', "x": -'),
                       ("overlong UTF-8", line[:-1] + b', "x": "\xc0\x80"}'),
                       ("65 levels", line[:-1] + b', "x": ' + b"[" * 65 + b"]" * 65 + b"}"),
                       ("a million brackets", b"[" * 10 ** 6), ("TRUE",
                                                                line[:-1] + b', "x": TRUE}')):
        yield wrong(f"config: {name}", "config.json", config__json=text)
    yield right("config: every kind of text", config__json=line[:-1] + (
        b', "x": ["\\ud83d\\ude00", "\\ue000\\u00e9\\"\\\\\\/\\b\\f\\n\\r\\t", '
        b'"\xee\x80\x80\xf0\x9f\x98\x80", "\x7f"]}'))
    yield right("config: 60 levels",
                config__json=line[:-1] + b', "x": ' + b"[" * 60 + b"]" * 60 + b"}")
    yield wrong("no config.json", "config.json", config__json=None)


def vocabularies():
    """The files beside tokenizer.model; badinput_old.py has the model itself."""
    more = hf_config(vocab_size=34)
    tensors = {**hf_weights(), EMBED: ((34, DIM), hf_weights()[EMBED][1] + bytes(8 * DIM)),
               HEAD: ((34, DIM), hf_weights()[HEAD][1] + bytes(8 * DIM))}
    larger = {"config__json": more, "model__safetensors": safetensors(tensors)}

    def config(**changes):
        return {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False,
                "add_prefix_space": False, **changes}

    def decoder(token):
        return {"tokenizer_config__json": config(added_tokens_decoder={"32": token})}

    yield right("two rows without a token", **larger)
    yield right("added tokens", **larger, added_tokens__json={"<|x|>": 32, "<|y|>": 33})
    yield right("a template", tokenizer_config__json=config(chat_template="{{ messages }}"))
    yield right("named templates", tokenizer_config__json=config(chat_template=[
        {"name": "tools", "template": "x"}, {"name": "default", "template": "{{ messages }}"}]))
    yield right("no template", tokenizer_config__json=config(chat_template=None, pad_token=""))
    yield right("a template in a file", chat_template__jinja=b"{{ messages }}")
    yield wrong("an empty template in a file", "chat_template.jinja", chat_template__jinja=b"")
    yield right("bos and eos that are not those of generation", config__json=hf_config(
        bos_token_id=2, eos_token_id=1), tokenizer_config__json=config(
            add_bos_token=True, add_eos_token=True, bos_token="<s>", eos_token="</s>",
            pad_token={"content": "<unk>"}, sep_token=None, extra_special_tokens=None))
    yield right("no bos and no eos", config__json=hf_config(bos_token_id=None, eos_token_id=None),
                tokenizer_config__json=config(add_bos_token=True, add_eos_token=True,
                                              extra_special_tokens={}),
                tokenizer__model=sentencepiece(trainer={41: -1, 42: -1}))
    yield right("OpenCoder's class by its file", tokenizer_config__json=config(
        tokenizer_class="PreTrainedTokenizer",
        auto_map={"AutoTokenizer": ["tokenization_inflm.INFLMTokenizer", None]}))
    yield right("an auto_map of something else",
                tokenizer_config__json=config(auto_map={"AutoTokenizer": 5}))
    wider = len(TOKENS) + 256
    tensors = {**hf_weights(), **{name: ((wider, DIM), hf_weights()[name][1] + bytes(
        4 * 256 * DIM)) for name in (EMBED, HEAD)}}
    yield wrong("a byte piece is added", "added_tokens.json", "<0x41>", "byte",
                config__json=hf_config(vocab_size=wider), model__safetensors=safetensors(tensors),
                tokenizer__model=sentencepiece((*TOKENS, *BYTES)),
                added_tokens__json={"<0x41>": len(TOKENS) + 0x41})
    yield wrong("no tokenizer.model", "tokenizer.model", tokenizer__model=None)
    yield wrong("no tokenizer.model, a tokenizer.json", "tokenizer.json", tokenizer__model=None,
                tokenizer__json={})
    yield wrong("tokenizer.model with more pieces than rows", "tokenizer.model", "33", "32",
                tokenizer__model=sentencepiece((*TOKENS, (b"more", 0.0, 1))))
    for name in "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", \
            "generation_config.json":
        for what, content in (("empty", b""), ("a list", []), ("cut off", b'{"a": '),
                              ("LFS pointer", LFS),
                              ("a key twice", b'{"a": 1, "a": 2}'),
                              ("10000 brackets", b"[" * 10000)):
            yield wrong(f"{name}: {what}", name, **{name.replace(".", "__"): content})
    for name, tokens in (("an id past the end", {"<|x|>": 34}), ("a negative id", {"<|x|>": -1}),
                         ("a huge id", {"<|x|>": 2 ** 62}), ("half an id", {"<|x|>": 32.5}),
                         ("an id as text", {"<|x|>": "32"}),
                         ("two tokens of one id", {"x": 32, "y": 32}),
                         ("a piece's id", {"<|x|>": 7}), ("a token that is a piece", {"a": 32})):
        yield wrong(f"added_tokens.json: {name}", **larger, added_tokens__json=tokens)
    for name, token in (("without content", {"special": True}),
                        ("content a number", {"content": 1}),
                        ("special a text", {"content": "<|x|>", "special": "yes"}),
                        ("lstrip", {"content": "<|x|>", "lstrip": True}),
                        ("rstrip a text", {"content": "<|x|>", "rstrip": "no"}),
                        ("single_word", {"content": "<|x|>",
                                         "single_word": True}), ("a text", "<|x|>")):
        yield wrong(f"added_tokens_decoder: {name}", "tokenizer_config.json", **larger,
                    **decoder(token))
    for key in "", "x", "-1", "3x", "99999999999999999999", "34":
        yield wrong(f"added_tokens_decoder: id {key!r}", "tokenizer_config.json", **larger,
                    tokenizer_config__json=config(added_tokens_decoder={key: {"content": "<|x|>"}}))
    for key, value in (("tokenizer_class", "GPT2Tokenizer"), ("tokenizer_class", 5),
                       ("add_bos_token", "no"),
                       ("add_prefix_space", 1), ("bos_token", "nowhere"), ("eos_token", 7),
                       ("unk_token", {"a": 1}), ("additional_special_tokens", "x"),
                       ("additional_special_tokens", ["nowhere"]), ("chat_template", 5),
                       ("chat_template", [{"name": "default"}]), ("chat_template", [{}]),
                       ("pad_token", "nowhere"), ("sep_token", "nowhere"), ("opencoder", "yes"),
                       ("add_eos_token", "no"), ("added_tokens_decoder", []),
                       ("auto_map", "x")):
        yield wrong(f"tokenizer_config.json: {key} {value!r}", "tokenizer_config.json",
                    tokenizer_config__json=config(**{key: value}))
    for value in 32, -1, 1.5, "2", [], [2, 99], ["a"], [None], list(range(20)):
        yield wrong(f"generation_config.json: eos {value!r}", "generation_config.json",
                    "eos_token_id",
                    generation_config__json={"eos_token_id": value})
    yield wrong("generation_config.json: bos 'a'", "generation_config.json", "bos_token_id",
                generation_config__json={"bos_token_id": "a"})
    yield wrong("special_tokens_map.json: bos 'nowhere'", "special_tokens_map.json", "bos_token",
                special_tokens_map__json={"bos_token": "nowhere"})
    yield right("generation_config.json: nothing", generation_config__json={
        "bos_token_id": None, "eos_token_id": None})
    for key in "bos_token_id", "eos_token_id":
        yield wrong(f"config.json: {key} 99", "config.json", key,
                    config__json=hf_config(**{key: 99}))


# -------------------------------------------------------------------------------- PyTorch archive
def torch(name, content, *words):
    return wrong(f"torch: {name}", "pytorch_model.bin", *words, model__safetensors=None,
                 pytorch_model__bin=content.build() if hasattr(content, "build") else content)


def archives():
    whole = torch_zip().build()
    yield right("torch: control", model__safetensors=None, pytorch_model__bin=whole)
    wide = torch_zip()
    count = len(wide.entries)
    directory = whole.index(b"PK\1\2")
    size = len(whole) - 22 - directory
    wide.wide = count, size, directory
    wide.end = {"n": 65535, "size": 2 ** 32 - 1, "offset": 2 ** 32 - 1}
    yield right("torch: control, ZIP64", model__safetensors=None, pytorch_model__bin=wide.build())
    other = torch_zip().entry("data/0", extra=b"\5\0\4\0" + bytes(4))
    other.comment = b"a comment"
    yield right("torch: a comment, and an extra field of others", model__safetensors=None,
                pytorch_model__bin=other.build())
    for at in 1, directory + size - 1, directory + size + 50, 2 ** 63:
        lying = torch_zip()
        lying.wide, lying.wide_at = (count, size, directory), at
        yield torch(f"a ZIP64 end record at {at}", lying, "ZIP64 end record", at)
    for name, content in (("empty", b""), ("1 byte", b"P"), ("LFS pointer", LFS),
                          ("64 KB of noise", random.Random(3).randbytes(65536)),
                          ("a bare pickle", pickle_dict([]) + bytes(64)),
                          ("a pickle of protocol 6", b"\x80\6" + bytes(64)),
                          ("only an end record", whole[-22:]),
                          ("safetensors", safetensors()), ("an empty archive",
                                                           b"PK\5\6" + bytes(18))):
        yield torch(name, content)
    for at in 4, 30, 64, directory - 1, directory, directory + 46, len(whole) - 22, len(whole) - 1:
        yield torch(f"cut off at {at}", whole[:at])
    yield torch("bytes behind the end", whole + b"x" * 100)
    for field, values in (("n", (0, 1, count + 1, 65535)),
                          ("size", (0, size - 1, size + 1, 2 ** 32 - 1)),
                          ("offset", (0, directory - 1, directory + 1, 2 ** 32 - 1))):
        for value in values:
            made = torch_zip()
            made.end = {field: value}
            yield torch(f"end record: {field} {value}", made)
    for values in ((2 ** 63, size, directory), (2 ** 64 - 1, size, directory),
                   (count, 2 ** 64 - 1, directory),
                   (count, size, 2 ** 63), (count, size, 2 ** 64 - 1), (count, 2 ** 63, 2 ** 63),
                   (count, size, directory + 1), (0, 0, 0)):
        made = torch_zip()
        made.wide = values
        yield torch(f"ZIP64 end record {values}", made)
    for name, changes, word in (
            ("deflated", {"method": 8}, "method 8"), ("bzip2", {"method": 12}, "method 12"),
            ("encrypted", {"flags": 1}, "encrypted"),
            ("longer than it is", {"size": 2 ** 31}, "data/0"),
            ("of 2^32 - 2 bytes", {"size": 2 ** 32 - 2}, "data/0"),
            ("4 bytes short", {"size": 4092}, "4092"),
            ("one byte short", {"size": 4095}, "4095"),
            ("with other packed size", {"packed": 5}, "data/0"),
            ("past the end", {"offset": 2 ** 31}, "data/0"),
            ("at the directory", {"offset": directory}, ""),
            ("at a wrong place", {"offset": 5}, "local header"),
            ("at the last byte", {"offset": directory - 1}, "local header"),
            ("with a name past the directory", {"name_size": 65535}, "past the end"),
            ("with half a field of others", {"extra": b"\5\0\4\0"}, "ZIP64"),
            ("under another local name", {"local_name": "m/data/X"}, "data/0"),
            ("under a longer local name", {"local_name": "m/data/0" + "0" * 60000}, "data/0"),
            ("without a ZIP64 field", {"size": 2 ** 32 - 1}, "data/0"),
            ("with a short ZIP64 field", {"size": 2 ** 32 - 1, "extra": b"\1\0\4\0" + bytes(4)},
             "ZIP64"),
            ("with a cut ZIP64 field", {"size": 2 ** 32 - 1, "extra": b"\1\0\xff\0" + bytes(4)},
             "ZIP64"),
            ("of 2^64 - 1 bytes", {"size": 2 ** 32 - 1, "packed": 2 ** 32 - 1,
                                   "extra": b"\1\0\x10\0" + b"\xff" * 16}, "data/0"),
            ("under an offset of 2^63",
             {"offset": 2 ** 32 - 1, "extra": b"\1\0\x08\0" + bytes(7) + b"\x80"},
             "data/0")):
        yield torch(f"a storage {name}", torch_zip().entry("data/0", **changes), word)
    yield torch("a storage twice", torch_zip().entry("data/1", name="m/data/0"), "twice")
    yield torch("a storage is missing", torch_zip().entry("data/1", name="m/data/x"), "data/1")
    yield torch("no data.pkl", torch_zip().entry("data.pkl", name="m/data.pk"), "data.pkl")
    yield torch("two data.pkl", torch_zip().entry("byteorder", name="n/data.pkl"), "data.pkl")
    yield torch("data.pkl empty", torch_zip().entry("data.pkl", data=b""), "data.pkl")
    yield torch("data.pkl of one byte", torch_zip(b"."), "data.pkl")
    yield torch("no entries, but a directory", torch_zip().entry("data.pkl", method=8), "data.pkl")
    yield torch("a long folder", Zip([("m" * 300 + "/data.pkl", pickle_dict(torch_items()))]),
                "data/0")
    yield torch("big-endian", torch_zip().entry("byteorder", data=b"big"), "byteorder", "little")
    for name, content, word in (("a PyTorch archive", whole, "a PyTorch file"),
                                ("safetensors", safetensors(), "a safetensors file"),
                                ("8 letters and a brace", b"abcdefgh{" + bytes(99), "heads"),
                                ("7 letters and a brace", b"abcdefg\0{" + bytes(99), "heads")):
        yield reject(f"hf: {name} as a model", "convert x OUT", {"x": content}, "x", word)


def pickles():
    items = torch_items()
    first, program = items[0]

    def pickle(name, content, *words):
        return torch(f"pickle: {name}", torch_zip(content), *words)

    def tensor(name, *args, words=(EMBED,), **more):
        return pickle(name, pickle_dict([(first, pickle_tensor(*args, **more)), *items[1:]]),
                      *words)

    right_one = pickle_dict(items)
    whole = dict(model__safetensors=None, pytorch_model__bin=b"")
    start, empty = b"\x80\x02ccollections\nOrderedDict\n)R", b"ccollections\nOrderedDict\n)R"
    for name, content in (
            ("items one by one", start + b"".join(pickle_text(key) + value + b"s"
                                                  for key, value in items) + b"."),
            ("parameters", pickle_dict([(key, b"ctorch._utils\n_rebuild_parameter\n" + pickle_tuple(
                [value, b"\x88", empty]) + b"R") for key, value in items])),
            ("attributes, lists and numbers", pickle_dict(items)[:-1] + b"}" + pickle_text("_x") +
             b"]K\1a(K\1G" + bytes(8) + b"\x8a\1\xff\x8a\0es" + pickle_text("_y") + b"Nsb."),
            ("a memo of four bytes", b"\x80\x02Nr\1\0\0\0j\1\0\0\0h\1\x87\x85" +
             pickle_dict(items)[2:])):
        whole["pytorch_model__bin"] = torch_zip(content).build()
        yield right(f"torch: pickle: {name}", **whole)
    for module, name in (("os", "system"), ("builtins", "eval"), ("builtins", "getattr"),
                         ("posix", "system"),
                         ("subprocess", "Popen"), ("torch", "load"),
                         ("torch._utils", "_rebuild_tensor_v3"),
                         ("collections", "OrderedDic"), ("collections", "OrderedDictX"),
                         ("numpy", "array"),
                         ("", ""), ("os\x1b[31m", "system")):
        attack = b"c" + module.encode() + b"\n" + name.encode() + b"\n" + \
            pickle_tuple([pickle_text("touch OUT")]) + b"R"
        yield pickle(f"global {module!r} {name!r}", b"\x80\x02" + attack + b".", "global")
        yield pickle(f"global {module!r} {name!r} as a tensor",
                     pickle_dict([(first, attack), *items[1:]]),
                     "global")
    yield pickle("a global without end", b"\x80\x02cos", "data.pkl")
    yield pickle("STACK_GLOBAL", b"\x80\x04" + b"\x8c\x02os" + b"\x8c\x06system" + b"\x93.",
                 "protocol")
    yield pickle("STACK_GLOBAL in protocol 2", b"\x80\x02X\2\0\0\0osX\6\0\0\0system\x93.", "93")
    for op in b"io\x81\x82\x83\x84\x8b\x8c\x8d\x8e\x90\x91\x92\x94\x95\x96\x97\x98" \
              b"FILSVBCTU012glpP\0\xff":
        yield pickle(f"instruction {op:02x}", b"\x80\x02" + bytes([op]) + bytes(16) + b".",
                     "data.pkl", f"{op:02x}")
    for protocol in 0, 1, 3, 5, 255:
        yield pickle(f"protocol {protocol}", b"\x80" + bytes([protocol]) + right_one[2:],
                     "protocol")
    for at in 1, 2, 10, 40, len(right_one) // 2, len(right_one) - 1:
        yield pickle(f"cut off at {at}", right_one[:at], "data.pkl")
    for name, content in (
            ("nothing on the stack", b"\x80\x02."),
            ("a text", b"\x80\x02" + pickle_text("x") + b"."),
            ("a tuple", b"\x80\x02)."), ("a tuple of nothing", b"\x80\x02\x87."),
            ("no mark", b"\x80\x02t."),
            ("a mark below", b"\x80\x02}(\x85."), ("SETITEMS on a tuple", b"\x80\x02)(NNu."),
            ("an odd number of items", b"\x80\x02}(Nu."),
            ("a key that is a number", b"\x80\x02}(K\1K\1u."),
            ("REDUCE of a text", b"\x80\x02" + pickle_text("x") + b")R."),
            ("REDUCE of a storage type", b"\x80\x02ctorch\nFloatStorage\n)R."),
            ("OrderedDict with arguments", b"\x80\x02ccollections\nOrderedDict\nK\1\x85R."),
            ("a persistent id that is a text", b"\x80\x02" + pickle_text("x") + b"Q."),
            ("memo read before it is written", b"\x80\x02h\7."),
            ("memo number 2^32 - 1", b"\x80\x02Nr" + b"\xff" * 4 + b"."),
            ("memo read at 2^31", b"\x80\x02j\0\0\0\x80."), ("memo of nothing", b"\x80\x02q\0."),
            ("a text of 2^32 - 1 bytes", b"\x80\x02X" + b"\xff" * 4 + b"x."),
            ("a long of 255 bytes", b"\x80\x02\x8a\xff" + bytes(255) + b"."),
            ("BUILD on nothing", b"\x80\x02b."), ("APPENDS on a dictionary", b"\x80\x02}(Ne."),
            ("100000 marks", b"\x80\x02" + b"(" * 100000 + b"."),
            ("100000 tuples in each other", b"\x80\x02)" + b"\x85" * 100000 + b"."),
            ("a memo bomb", b"\x80\x02)q\0" + b"h\0h\0\x86q\0" * 20000 + b"."),
            ("a float cut off", b"\x80\x02G123"), ("a number cut off", b"\x80\x02J123"),
            ("a long cut off", b"\x80\x02\x8a\4123"), ("a long without a length", b"\x80\x02\x8a"),
            ("a text without a length", b"\x80\x02X\1"), ("a protocol cut off", b"\x80"),
            ("a memo number cut off", b"\x80\x02Nr\1"), ("a memo read cut off", b"\x80\x02j\1"),
            ("memo number past the file", b"\x80\x02N" + b"q\xff."),
            ("APPEND to a tuple", b"\x80\x02)Na."), ("APPENDS without a mark", b"\x80\x02]Ne."),
            ("APPEND of nothing", b"\x80\x02a."), ("SETITEMS without a mark", b"\x80\x02}u."),
            ("SETITEM of nothing", b"\x80\x02s."), ("REDUCE of nothing", b"\x80\x02R."),
            ("REDUCE with a text", b"\x80\x02ctorch\nFloatStorage\n" + pickle_text("x") + b"R."),
            ("a tensor of no arguments", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R."),
            ("a tensor of 8 arguments", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NNNNNNNNtR."),
            ("a parameter of nothing", b"\x80\x02ctorch._utils\n_rebuild_parameter\n)R."),
            ("a parameter of numbers", b"\x80\x02ctorch._utils\n_rebuild_parameter\nNNN\x87R."),
            ("a persistent id of nothing", b"\x80\x02Q."),
            ("a persistent id of one", b"\x80\x02N\x85Q."),
            *((f"a persistent id, {name}", b"\x80\x02" + pickle_tuple(words) + b"Q.")
              for name, words in (
                  ("other word", [pickle_text("x"), b"N", b"N", b"N", b"N"]),
                  ("no word", [b"N", b"N", b"N", b"N", b"N"]),
                  ("no type", [pickle_text("storage"), b"N", b"N", b"N", b"N"]),
                  ("a dictionary", [pickle_text("storage"), b"ccollections\nOrderedDict\n", b"N",
                                    b"N", b"N"]),
                  ("no key", [pickle_text("storage"), b"ctorch\nFloatStorage\n", b"N", b"N", b"N"]),
                  ("no count", [pickle_text("storage"), b"ctorch\nFloatStorage\n",
                                pickle_text("0"), b"N", b"N"]))),
            ("2 MB", b"\x80\x02" + b"N" * (2 << 20) + b".")):
        yield pickle(name, content, "data.pkl")
    for name, program, words in (("no tensors", pickle_dict([]), (EMBED, "missing")),
                                 ("a tensor twice", pickle_dict([*items, items[0]]),
                                  (EMBED, "twice"))):
        yield wrong(f"torch: pickle: {name}", *words, model__safetensors=None,
                    pytorch_model__bin=torch_zip(program).build())
    yield pickle("a number as a tensor", pickle_dict([(first, pickle_int(5)), *items[1:]]), first)
    yield pickle("a dictionary as a tensor", pickle_dict([(first, b"}"), *items[1:]]), first)
    yield tensor("strides the other way", "0", (DIM, DIM), strides=(1, DIM),
                 words=(EMBED, "contiguous"))
    yield tensor("strides of 0", "0", (DIM, DIM), strides=(0, 1), count=1024,
                 words=(EMBED, "contiguous"))
    yield tensor("negative strides", "0", (DIM, DIM), strides=(-DIM, -1), count=1024)
    yield tensor("huge strides", "0", (DIM, DIM), strides=(2 ** 62, 1), count=1024)
    for place, name in enumerate(("a storage", "an offset", "a shape", "strides")):
        args = [pickle_tensor("0", (DIM, DIM)).split(b"v2\n(")[1].split(b"Q")[0] + b"Q",
                pickle_int(0), pickle_tuple([pickle_int(DIM)] * 2),
                pickle_tuple([pickle_int(DIM), pickle_int(1)]), b"\x89", empty]
        args[place] = b"N"
        yield pickle(f"a tensor without {name}", pickle_dict([(first, (
            b"ctorch._utils\n_rebuild_tensor_v2\n" + pickle_tuple(args) + b"R")), *items[1:]]),
            first, "odd arguments")
    for part, words in ("shape", [b"N", pickle_int(1)]), ("strides", [pickle_int(1), b"N"]):
        args[2:4] = [pickle_tuple([word]) for word in words]
        yield pickle(f"{part} of no number", pickle_dict([(first, (
            b"ctorch._utils\n_rebuild_tensor_v2\n" + pickle_tuple(args) + b"R")), *items[1:]]),
            first, "dimension 0 is not a number")
    yield tensor("more strides than dimensions", "0", (DIM, DIM), strides=(DIM, 1, 1), count=1024)
    for shape, strides, word in ((), (), "shape 1 x 1"), ((1, DIM), (99, 1), f"shape 1 x {DIM}"):
        odd = pickle_tensor("0", shape, count=1024, strides=strides)
        yield wrong(f"torch: pickle: shape {shape}", EMBED, word, model__safetensors=None,
                    pytorch_model__bin=torch_zip(pickle_dict([(first, odd), *items[1:]])).build())
    yield tensor("3 dimensions", "0", (DIM, DIM, 1), strides=(DIM, 1, 1),
                 words=(EMBED, "3 dimensions"))
    for shape in (0, DIM), (-DIM, -DIM), (2 ** 31, DIM), (2 ** 62, 4), (2 ** 31 - 1, 2 ** 31 - 1):
        yield tensor(f"shape {shape}", "0", shape, count=1024)
    yield tensor("a shape larger than the storage", "0", (DIM, DIM + 1), count=1024,
                 words=(EMBED, "1024"))
    for offset in 1, -1, 1024, 2 ** 31 - 1, 2 ** 62, -2 ** 63:
        yield tensor(f"offset {offset}", "0", (DIM, DIM), offset=offset, words=(EMBED, offset))
    for count in 0, 1023, 1025, -1, 2 ** 62:
        yield tensor(f"a storage of {count} numbers", "0", (DIM, DIM), count=count,
                     words=(EMBED, count))
    for kind in "DoubleStorage", "HalfStorage", "LongStorage", "BoolStorage":
        yield tensor(f"{kind} over f32 data", "0", (DIM, DIM), kind=kind)
    yield tensor("a storage that is not there", "99", (DIM, DIM), words=(EMBED, "data/99"))
    yield tensor("a storage outside", "../data.pkl", (DIM, DIM), words=(EMBED,))
    yield tensor("a storage with a long name", "9" * 5000, (DIM, DIM), words=(EMBED,))
    yield tensor("_rebuild_parameter of nothing", "0", (DIM, DIM), words=("_rebuild_parameter",),
                 call=b"ctorch._utils\n_rebuild_parameter\n")


def cases():
    for group in (safetensors_syntax, safetensors_entries, safetensors_layout, tied, shards,
                  configs, vocabularies, archives, pickles):
        yield from group()
