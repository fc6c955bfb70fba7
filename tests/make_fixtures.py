#!/usr/bin/env python3
"""make_fixtures.py: records what tests/test_run.c and tests/test_format.c compare with.

Run once by us (`make fixtures PYTHON=...`), with torch, transformers 4.x, sentencepiece and gguf;
what it writes is committed, so that `make test` needs none of them. It makes, in tests/data:

    llama_*/            random Llamas as Hugging Face directories, written by save_pretrained and
                        awkward on purpose: see MODELS. Weights are large enough that a mistake in
                        any formula moves the logits by far more than rounding does.
    llama_*.gguf        per model, what transformers computes in float32 with eager attention
    blocks.gguf         random blocks of every storage type, and gguf-py's reading of them

A reference is a GGUF file without a model: arrays are keys, matrices are f32 tensors:

    tokens, logits              a sequence and the logits at each of its positions
    long_tokens, long_positions, long_logits    a sequence of 1200, logits at a few positions
    greedy                      what follows `tokens` when the likeliest token is taken each time
    hidden.0 to hidden.L        the residual stream before each layer, and after the last norm
    versions, seed              how it was made"""

import contextlib
import json
import os
import platform
import shutil
import sys
import tempfile

import gguf
import numpy as np
import sentencepiece
import torch
import transformers

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")
VERSIONS = f"python {platform.python_version()}, torch {torch.__version__}, " \
           f"transformers {transformers.__version__}, numpy {np.__version__}, " \
           f"sentencepiece {sentencepiece.__version__}"
N_PIECES = 351  # of SentencePiece; then <|im_end|> and <|im_start|>, then unused rows
IM_END, IM_START = N_PIECES, N_PIECES + 1
LONG = 1200

# One layer of each OpenCoder size, at its full width: full_layer.py, full_layer_train.py.
FULL_WIDTH = {
    "1.5b": dict(hidden_size=2240, intermediate_size=6144, num_attention_heads=14,
                 num_key_value_heads=14, head_dim=160, rope_theta=1e4),
    "8b": dict(hidden_size=4096, intermediate_size=14336, num_attention_heads=32,
               num_key_value_heads=8, head_dim=128, rope_theta=5e5),
}
for shape in FULL_WIDTH.values():
    shape.update(num_hidden_layers=1, vocab_size=4096, rms_norm_eps=1e-5, tie_word_embeddings=False)

# name: (configuration, files, embedding scale, T, greedy tokens, seed)
MODELS = {
    # OpenCoder 1.5B's head: 160 wide, K = H; and H x D is not the width of the model.
    "llama_mha160": (dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                          num_attention_heads=2, num_key_value_heads=2, head_dim=160,
                          vocab_size=353, rope_theta=1e4, rms_norm_eps=1e-5,
                          tie_word_embeddings=False),
                     dict(dtype=torch.float32), 1.0, 33, 256, 1),
    # OpenCoder 8B's attention: several query heads share a key head; theta 5e5. Tied, bfloat16.
    "llama_gqa20": (dict(hidden_size=96, intermediate_size=128, num_hidden_layers=3,
                         num_attention_heads=6, num_key_value_heads=2, head_dim=20,
                         vocab_size=353, rope_theta=5e5, rms_norm_eps=1e-5,
                         tie_word_embeddings=True),
                    dict(dtype=torch.bfloat16), 0.3, 40, 256, 2),
    # As OpenCoder's Base repositories: float16 in PyTorch's own format, two files, inv_freq in
    # them. No row is a multiple of 32; a small embedding makes epsilon count in the first norm.
    "llama_mqa30": (dict(hidden_size=90, intermediate_size=172, num_hidden_layers=2,
                         num_attention_heads=3, num_key_value_heads=1,
                         vocab_size=357, rope_theta=1e4, rms_norm_eps=1e-6,
                         tie_word_embeddings=False),
                    dict(dtype=torch.float16, pickled=True), 0.003, 13, 128, 3),
    # A config.json as transformers 5 writes it, five safetensors files, rows without a token.
    "llama_v5": (dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                      num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                      vocab_size=384, rope_theta=2e4, rms_norm_eps=1e-5,
                      tie_word_embeddings=False),
                 dict(dtype=torch.bfloat16, shards="60KB", v5=True), 1.0, 21, 64, 4),
}

CORPUS = '''def fib(n):
    """Return the n-th Fibonacci number."""
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


class Stack(object):
    def __init__(self, items=None):
        self.items = list(items or [])

    def push(self, item):
        self.items.append(item)
        return self

    def pop(self):
        if not self.items:
            raise IndexError("pop from an empty stack")
        return self.items.pop()

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) printf("%s\\n", argv[i]);
    return 0 == argc % 2 ? 1 : -1;
}
SELECT name, COUNT(*) FROM users WHERE id >= 42 AND mail LIKE '%@example.org' GROUP BY name;
'''


def train_tokenizer(path):
    """A SentencePiece model with OpenCoder's flags: BPE, byte fallback, text left as it is."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        with open("corpus.txt", "w", encoding="utf-8") as file:
            file.write(CORPUS * 4)
        sentencepiece.SentencePieceTrainer.train(
            input="corpus.txt", model_prefix="tokenizer", model_type="bpe", vocab_size=N_PIECES,
            byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=False,
            remove_extra_whitespaces=False, allow_whitespace_only_pieces=True,
            split_digits=False, character_coverage=1.0, pad_id=3, num_threads=1, minloglevel=2)
        shutil.copy("tokenizer.model", path)


def write_json(directory, name, value):
    with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")


def read_json(directory, name):
    with open(os.path.join(directory, name), encoding="utf-8") as file:
        return json.load(file)


def write_tokenizer(directory):
    """tokenizer.model and the files that stand beside it in an OpenCoder repository."""
    train_tokenizer(os.path.join(directory, "tokenizer.model"))
    special = {"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3,
               "<|im_end|>": IM_END, "<|im_start|>": IM_START}
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<unk>",
             "pad_token": "<pad>"}
    write_json(directory, "added_tokens.json", {"<|im_end|>": IM_END, "<|im_start|>": IM_START})
    write_json(directory, "special_tokens_map.json",
               {**names, "additional_special_tokens": ["<|im_end|>", "<|im_start|>"]})
    write_json(directory, "tokenizer_config.json", {
        **names,
        "add_bos_token": False,
        "add_eos_token": False,
        "added_tokens_decoder": {str(i): {"content": text, "lstrip": False, "normalized": False,
                                          "rstrip": False, "single_word": False, "special": True}
                                 for text, i in special.items()},
        "auto_map": {"AutoTokenizer": ["tokenization_inflm.INFLMTokenizer", None]},
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1000000000000000019884624838656,
        "tokenizer_class": "INFLMTokenizer",
    })


def random_llama(shape, embedding, seed, **more):
    """A Llama in float32 whose attention, gates and norms all matter to the result."""
    config = transformers.LlamaConfig(
        **shape, **more, bos_token_id=IM_START, eos_token_id=IM_END, pad_token_id=3,
        attn_implementation="eager")
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
            elif "embed_tokens" in name:
                weight.normal_(0, embedding)
            else:  # so that what goes in with variance 1 comes out with variance about 1.5
                weight.normal_(0, 1.2 / weight.shape[1] ** 0.5)
    return model


def add_inv_freq(directory, model):
    """Base repositories hold these buffers; a loader must step over them."""
    index = read_json(directory, "pytorch_model.bin.index.json")
    shard = sorted(set(index["weight_map"].values()))[0]
    weights = torch.load(os.path.join(directory, shard), weights_only=True)
    for layer in range(model.config.num_hidden_layers):
        name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        weights[name] = model.model.rotary_emb.inv_freq.detach().float().clone()
        index["weight_map"][name] = shard
    torch.save(weights, os.path.join(directory, shard))
    write_json(directory, "pytorch_model.bin.index.json", index)


def write_config(directory, v5):
    """save_pretrained's config.json under the key names of transformers 4.45 or of 5.0."""
    config = read_json(directory, "config.json")
    dtype = config.pop("dtype", None) or config.pop("torch_dtype")
    if v5:
        config["dtype"] = dtype
        config["rope_parameters"] = {"rope_theta": config.pop("rope_theta"),
                                     "rope_type": "default"}
        config.pop("rope_scaling")
        config["transformers_version"] = "5.0.0"
    else:
        config["torch_dtype"] = dtype
        config["transformers_version"] = "4.45.2"
        if config["head_dim"] * config["num_attention_heads"] == config["hidden_size"]:
            config.pop("head_dim")
    write_json(directory, "config.json", config)


def write_model(directory, model, dtype, shards="100MB", pickled=False, v5=False):
    """Writes a directory and returns the model as transformers reads it back, in float32."""
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    if pickled:
        shards = 260_000
    model.to(dtype).save_pretrained(directory, safe_serialization=not pickled,
                                    max_shard_size=shards)
    again = transformers.LlamaForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager").eval()
    if pickled:
        add_inv_freq(directory, again)
    write_config(directory, v5)
    return again


@torch.no_grad()
def logits_of(model, tokens):
    return model(torch.tensor([tokens])).logits[0].numpy()


@torch.no_grad()
def greedy(model, tokens, n):
    """Returns n tokens and the smallest lead of a first over a second choice, relative to the
    largest logit: far above rounding, or the reference would be a matter of luck."""
    found, lead = list(tokens), 1.0
    for _ in range(n):
        row = logits_of(model, found)[-1]
        best, second = np.sort(row)[[-1, -2]]
        lead = min(lead, (best - second) / np.abs(row).max())
        found.append(int(row.argmax()))
    return found[len(tokens):], lead


def add_matrix(writer, name, matrix):
    writer.add_tensor(name, np.ascontiguousarray(matrix, dtype=np.float32))


def write_reference(path, model, n_tokens, n_greedy, seed, hidden):
    random = np.random.default_rng(seed)
    for _ in range(50):
        tokens = random.integers(4, N_PIECES + 2, n_tokens).tolist()
        following, lead = greedy(model, tokens, n_greedy)
        if lead > 3e-4:
            break
    else:
        sys.exit(f"{path}: no prompt whose greedy text is clear of rounding")
    long_tokens = random.integers(4, N_PIECES + 2, LONG).tolist()
    positions = [255, 700, 1023, LONG - 1]
    writer = gguf.GGUFWriter(path, "reference")
    writer.add_string("versions", VERSIONS)
    writer.add_uint32("seed", seed)
    writer.add_array("tokens", tokens)
    writer.add_array("greedy", following)
    writer.add_array("long_tokens", long_tokens)
    writer.add_array("long_positions", positions)
    add_matrix(writer, "logits", logits_of(model, tokens))
    add_matrix(writer, "long_logits", logits_of(model, long_tokens)[positions])
    if hidden:
        with torch.no_grad():
            states = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states
        for i, state in enumerate(states):
            add_matrix(writer, f"hidden.{i}", state[0].numpy())
    close(writer)
    print(f"{os.path.basename(path)}: greedy lead {lead:.1e}, "
          f"{len(set(following))} different tokens of {n_greedy}")


def close(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# Where the float16 numbers of a block stand; what is left may be any bits.
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2],
          "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0]}


def write_blocks(path, seed):
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "reference")
    writer.add_string("versions", VERSIONS)
    writer.add_uint32("seed", seed)
    for name in [*HALVES, "F16", "BF16"]:
        kind = getattr(gguf.GGMLQuantizationType, name)
        block, size = gguf.GGML_QUANT_SIZES[kind]
        rows, blocks = 3, {1: 200, 32: 6, 256: 2}[block]
        raw = random.integers(0, 256, (rows * blocks, size), dtype=np.uint8)
        for at in HALVES.get(name, []):
            scale = random.normal(0, 0.05, rows * blocks).astype(np.float16)
            raw[:, at:at + 2] = scale.view(np.uint8).reshape(-1, 2)
        if block == 1:  # every number but Inf and NaN, whose exponents are all ones
            exponent = 0x7C if name == "F16" else 0x7F
            raw[:, 1] &= np.where(raw[:, 1] & exponent == exponent, 0x83, 0xFF).astype(np.uint8)
        raw = raw.reshape(rows, blocks * size)
        writer.add_tensor(name.lower(), raw, raw_dtype=kind)
        add_matrix(writer, name.lower() + ".f32", gguf.quants.dequantize(raw, kind))
    close(writer)


def main():
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    os.makedirs(DATA, exist_ok=True)
    for name, (shape, files, embedding, n_tokens, n_greedy, seed) in MODELS.items():
        directory = os.path.join(DATA, name)
        model = random_llama(shape, embedding, seed, max_position_embeddings=2048)
        model = write_model(directory, model, **files)
        write_tokenizer(directory)
        write_reference(directory + ".gguf", model, n_tokens, n_greedy, seed,
                        hidden=name == "llama_gqa20")
    write_blocks(os.path.join(DATA, "blocks.gguf"), 5)


if __name__ == "__main__":
    main()
