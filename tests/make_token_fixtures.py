"""Records what the real tokenizers do, once, for tests/test_tokenizer.c.

    python tests/make_token_fixtures.py DIR_OF_INFLM     from the root of the repository

DIR_OF_INFLM holds tokenization_inflm.py, the class that Hugging Face runs for OpenCoder. It needs
transformers 4.x, sentencepiece and gguf. Written into tests/data:

    tok_NAME.model   small SentencePiece models, trained here on Python's own library
    tok_NAME.gguf    the same vocabularies as tensor-less GGUF files
    tok_cases.gguf   texts and their ids: text[] strings, and for every case c
                     case_text[c], case_model[c] (index into model[]), case_special[c],
                     case_ids[c] (how many) and decoded[c] (the text that the ids decode to);
                     all ids stand one after the other in ids[]

The models' normalizers have few rules (all of nmt_nfkc would take 240 KB in every file)."""

import glob
import importlib.metadata
import os
import random
import sys
import sysconfig
import unicodedata

import gguf
import sentencepiece
import transformers
from sentencepiece import sentencepiece_model_pb2 as spm_pb2

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")
SEED = 2411
ADDED = [  # text, special; two of them begin with another one
    ("<|endoftext|>", True), ("<|fim_prefix|>", False), ("<|fim_middle|>", False),
    ("<|tool|>", False), ("<|tool|>_end", False), ("<|im_end|>", True), ("<|im_start|>", True),
]
MODELS = {  # arguments of the trainer, and `rules` and `unused`, see train()
    "inflm": dict(model_type="bpe", vocab_size=2000, byte_fallback=True, pad_id=3,
                  normalization_rule_name="identity", add_dummy_prefix=False,
                  remove_extra_whitespaces=False, allow_whitespace_only_pieces=True),
    "bpe": dict(model_type="bpe", vocab_size=700, character_coverage=0.995, rules=True,
                user_defined_symbols=["<sep>", "<sep><sep>", "==", "a b", "é", "ﬁ"]),
    "llama": dict(model_type="bpe", vocab_size=900, byte_fallback=True, character_coverage=0.995,
                  normalization_rule_name="identity", remove_extra_whitespaces=False,
                  split_digits=True, allow_whitespace_only_pieces=True, unused=7),
    "unigram": dict(model_type="unigram", vocab_size=900, byte_fallback=True, rules=True,
                    user_defined_symbols=["<sep>", "self."]),
    "plain": dict(model_type="unigram", vocab_size=500, character_coverage=0.99, rules=True,
                  remove_extra_whitespaces=False),
    "suffix": dict(model_type="unigram", vocab_size=500, treat_whitespace_as_suffix=True,
                   normalization_rule_name="identity", unused=9),
}


def corpus():
    """Source text as training sentences of four lines, and some that is not English."""
    files = sorted(glob.glob(os.path.join(sysconfig.get_paths()["stdlib"], "*.py")))
    for path in files[:120]:
        with open(path, encoding="utf-8", errors="ignore") as file:
            lines = file.read().split("\n")
        for i in range(0, len(lines), 4):
            yield "\n".join(lines[i : i + 4]) + "\n"
    for text in FOREIGN:
        yield from [text] * 20


def rules():
    """A part of nmt_nfkc: compatibility forms, composition, control characters, white space."""
    points = [*range(0xA0, 0xC0), *range(0x2000, 0x200B), *range(0x2460, 0x2480), 0x3000, 0xFDFA,
              *range(0xFB00, 0xFB07), *range(0xFF01, 0xFFA0), 0x2126, 0x2028,
              *range(0x3300, 0x3310)]
    table = {(c,): unicodedata.normalize("NFKC", chr(c)) for c in points}
    for base in "aeiouAEIOU":
        for mark in (0x300, 0x301, 0x308):
            table[(ord(base), mark)] = unicodedata.normalize("NFC", base + chr(mark))
    for kana in range(0xFF76, 0xFF85):  # half-width kana and voicing mark: the longest rule wins
        table[(kana, 0xFF9E)] = unicodedata.normalize("NFKC", chr(kana) + "\uff9e")
    table.update({(c,): "" for c in [*range(1, 9), 0xB, *range(0xE, 0x20), 0x7F, 0x200B, 0xFEFF]})
    table.update({(c,): " " for c in [9, 10, 12, 13]})
    return {key: text for key, text in table.items() if text != "".join(map(chr, key))}


def read_model(path):
    model = spm_pb2.ModelProto()
    with open(path, "rb") as file:
        model.ParseFromString(file.read())
    return model


def train(name, arguments, directory):
    arguments = dict(arguments)
    unused = arguments.pop("unused", 0)
    if arguments.pop("rules", False):
        path = os.path.join(directory, "tok_rules.tsv")
        with open(path, "w", encoding="utf-8") as file:
            for key, text in rules().items():
                file.write(" ".join("%X" % c for c in key) + "\t" +
                           " ".join("%X" % ord(c) for c in text) + "\n")
        arguments["normalization_rule_tsv"] = path
    prefix = os.path.join(directory, "tok_" + name)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=corpus(), model_prefix=prefix, num_threads=1, minloglevel=2, **arguments)
    os.remove(prefix + ".vocab")
    if "normalization_rule_tsv" in arguments:
        os.remove(path)
    model = read_model(prefix + ".model")
    for piece in model.pieces[300 :: unused or len(model.pieces)]:
        if unused and piece.type == 1:  # every so many pieces may help to join, but are not put out
            piece.type = 5
    with open(prefix + ".model", "wb") as file:
        file.write(model.SerializeToString())
    return prefix + ".model"


def write_gguf(model_path, out, opencoder=False, added=()):
    """A SentencePiece model, and tokens added beside it, as a GGUF file without tensors."""
    model = read_model(model_path)
    spec, w = model.normalizer_spec, gguf.GGUFWriter(out, "llama")
    w.add_tokenizer_model("t5" if model.trainer_spec.model_type == 1 else "llama")
    w.add_tokenizer_pre("opencoder" if opencoder else "default")
    w.add_token_list([p.piece for p in model.pieces] + [text for text, _ in added])
    w.add_token_scores([p.score for p in model.pieces] + [-1000.0] * len(added))
    w.add_token_types([p.type for p in model.pieces] + [3 if s else 4 for _, s in added])
    w.add_unk_token_id(model.trainer_spec.unk_id)
    w.add_bos_token_id(model.trainer_spec.bos_id)
    w.add_eos_token_id(model.trainer_spec.eos_id)
    w.add_add_bos_token(False)
    w.add_add_eos_token(False)
    w.add_add_space_prefix(spec.add_dummy_prefix)
    w.add_remove_extra_whitespaces(spec.remove_extra_whitespaces)
    w.add_uint32("opencoder.sentencepiece_count", len(model.pieces))
    if model.trainer_spec.treat_whitespace_as_suffix:
        w.add_bool("opencoder.whitespace_suffix", True)
    if spec.precompiled_charsmap:
        w.add_precompiled_charsmap(spec.precompiled_charsmap)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def inflm(model_path, directory):
    """The real class, with the added tokens behind the SentencePiece model's own."""
    sys.path.insert(0, directory)
    from tokenization_inflm import INFLMTokenizer
    first = sentencepiece.SentencePieceProcessor(model_path).get_piece_size()
    table = {first + i: transformers.AddedToken(text, special=special, normalized=False)
             for i, (text, special) in enumerate(ADDED)}
    return INFLMTokenizer(model_path, added_tokens_decoder=table)


# --------------------------------------------------------------------------------------------------
# The texts

FOREIGN = [
    "Привет, мир! Сегодня хорошая погода.", "你好，世界。今天天气很好。", "こんにちは、世界！ カタカナ",
    "안녕하세요 세계", "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "Γειά σου Κόσμε", "สวัสดีชาวโลก",
    "Ünïcödé naïve café résumé", "Tiếng Việt có dấu",
]
HAND = [
    "", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\t\t", " \n", "\n ", " \n ", "\r",
    "\r\n\r\n",
    "a", " a", "a ", " a ", "  a", "a  ", "  a  b  ", "a\n", "\na", "a\n\n\nb", "a \n b",
    "a\r\nb\r\n",
    "    x = 1\n", "\tx = 1\n", "\t\tif x:\n\t\t\treturn\n", "x\t\ty", "if x:\n        y()\n\n\nz",
    "1", "12", "123", "1234", "12345", "123456", "1234567", " 1", "  1", "\t1", "1 2 3",
    "x1y22z333",
    "3.14159", "0xDEADBEEF", "1e-10", "1_000_000", "٣٤٥٦٧", "²³¹⁰", "ⅧⅨ½¾", "１２３４５", "1,234.56",
    "don't", "DON'T", "I'm we're they'll you've he'd it's", "'s", "'S", "''s", "'\u017fhe",
    "x'\u017f",
    "'re", "'Re'", "'rex", "'v", "'ve'", "'LL", "'l", "'dog", "' s", "it\u2019s", "'tis 'twas", "'",
    "(x)", "):", "f(x):", "};\n\n", "=== !== <=>", "a+=b;", "...", "…", "//!\n", "# ---\n", "/**/",
    "x = [1, 2, 3]  # list\n", "\"\\n\"", "a!\n\n  b", " !", "  !", "\t!", "!\r\n!", "! \n",
    "<|im_end|>", "<|im_start|>user\nhi<|im_end|>\n", "a<|im_end|>b", "<|im_end|><|im_end|>",
    "<|im_end|", "<|im_<|im_end|>", "<|tool|>", "<|tool|>_", "<|tool|>_end",
    "<|tool|>_en<|tool|>_end",
    "<|fim_prefix|>def<|fim_middle|>", "<s>", "</s>", "<unk>", "<pad>", "<s></s><unk><pad>",
    "x <s> y",
    "1<|im_end|>2", " <|im_end|> ", "\n<|endoftext|>\n", "<0x41>", "<0xE4>", "<|endoftext|>1234",
    "\u2581", "\u2581\u2581", "a\u2581b", " \u2581 ", "\u2581a", "x \u2581y",
    "\0", "a\0b", "\0\0", " \0 ", "\x01\x02", "a\x7fb", "\x1b[0m", "\x0b\x0c", "\ufeffint main",
    "\u00a0", "a\u00a0b", "\u3000", "a\u3000\u3000b", "\u2028", "a\u2028b", "\u2003x", "\u200b",
    "\u0085",
    "\u180e", "\ufffd", "\ufffe", "\uffff", "\U0010ffff", "\ue000", "\U000e0001",
    "é", "e\u0301", "e\u0301e\u0301", "a\u0308\u0323", "\u0301", " \u0301x", "ﬁﬂﬀ", "Ａｂｃ！", "㌀",
    "ﷺ",
    "ｶﾞｷﾞｸ", "ｶ", "ｶﾞ", "ﾞ", "①②③", "™", "Ω", "ſ", "K", "İi", "ß", "ǆ", "ﬅ",
    "😀", "👍🏽", "👨‍👩‍👧‍👦", "🇫🇷🇩🇪", "a😀b", "😀😀😀", " 😀", "😀\n", "❤️", "1️⃣", "𝒳𝓎", "𐍈", "𠮷野家",
    "漢字かな交じり文", "中文abc混合123", "한국어 텍스트", "العربية ١٢٣", "עברית 123", "हिन्दी", "ไทย",
    "<sep>", "a<sep>b", "<sep><sep><sep>", "<sep> <sep>", "<se", "a==b", "a===b", "a b", "a  b",
    "xa by",
    "self.x = self.y", "self .x", " self.", "selfself.", "==  ==", "caféé", "é é",
    "a" * 300, "ab" * 150, " " * 200, "\n" * 100, "0" * 100, "é" * 50, "😀" * 20, "ß" * 64,
    "a " * 100,
    "supercalifragilisticexpialidocious", "AbstractSingletonProxyFactoryBean", "snake_case_name",
    "CamelCaseName", "SCREAMING_CASE", "x" * 40 + " " + "y" * 40,
    "https://example.com/a?b=c&d=%20#e",
    "user@example.com", "C:\\Users\\x", "/usr/bin/env", "a.b.c.d", "--flag=value", "$HOME/${x}",
    "`code`",
    "lorem ipsum dolor sit amet, consectetur adipiscing elit",
]
CODE = [
    'def fib(n: int) -> int:\n    """Return the n-th number."""\n    if n < 2:\n        return n\n'
    "    return fib(n - 1) + fib(n - 2)\n\n\nif __name__ == '__main__':\n    print(fib(10))\n",
    '#include <stdio.h>\r\n\r\nint main(void)\r\n{\r\n'
    '\tprintf("%d\\n", 42);\r\n\treturn 0;\r\n}\r\n',
    "const f = async (x) => {\n  const y = await g(`${x}/v1?q=${encodeURI('é')}`);\n"
    "  return y?.data ?? [];\n};\n\nexport default f;\n",
    "public class Main {\n    public static void main(String[] args) {\n"
    "        for (int i = 0; i < 10; i++) {\n"
    "            System.out.println(i);\n        }\n    }\n}\n",
    "fn main() {\n    let v: Vec<u32> = (1..=10).filter(|x| x % 2 == 0).collect();\n"
    '    println!("{:?}", v);\n}\n',
    'package main\n\nimport "fmt"\n\nfunc main() {\n\tfmt.Println("Hello, 世界")\n}\n',
    '#!/bin/sh\nset -eu\nfor f in *.c; do\n  cc -O2 -o "${f%.c}" "$f" || exit 1\ndone\n',
    "SELECT a.id, COUNT(*) FROM a LEFT JOIN b ON a.id = b.a_id\n"
    "WHERE a.name LIKE '%x%' GROUP BY 1;\n",
    "<!DOCTYPE html>\n<html>\n  <body class=\"x\">\n    <p>a &amp; b</p>\n  </body>\n</html>\n",
    "quicksort [] = []\nquicksort (p:xs) = quicksort [x | x <- xs, x < p] ++ [p]\n",
    "all: main.o\n\t$(CC) -o $@ $^\n\n.PHONY: clean\nclean:\n\trm -f *.o\n",
    '{"a": [1, 2.5, -3e10, null, true], "b": {"c": "\\u00e9"}}\n',
]
BROKEN = [  # not UTF-8: for SentencePiece only
    b"\xff", b"a\xffb", b"\xe2\x96", b"\xe2\x96\x81\xe2", b"\xc0\x80", b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xf9\x80\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf",
    b"\xf5\x80\x80\x80", b"\xff\xfe\xfd", b"\xf0\x9f\x98", b"\x80\x80", b"caf\xe9 ", b" \xfe ",
    b"\xe4\xb8\xad\xe4\xb8", b"<sep>\xff<sep>",
]
ALPHABETS = [
    "abc ", "aA1 '\n", " \t\r\n", "'sStTrReEvVmMlLdD\u017f ", "é e\u0301\u0308a", "ab\u2581 ",
    "0123456789 x",
    "<|im_end|>s/unk", "(){}[];:,.+-*/=\n ", "中文字 a1", "\u3000\u00a0\u2003 x\n", "ｶﾞﾊﾟ①ﬁＡ ",
    "\0\x01\x02 a", "😀👍🏽\u200d❤️ a", "<sep>==a b", "abcdefghijklmnopqrstuvwxyz_ \n",
]


def texts():
    random.seed(SEED)
    out = HAND + CODE + FOREIGN
    for alphabet in ALPHABETS:
        for _ in range(12):
            out.append("".join(random.choices(alphabet, k=random.randint(1, 24))))
    for _ in range(40):
        points = random.choices(range(0x110000), k=random.randint(1, 8))
        text = "".join(chr(c) for c in points if not 0xD800 <= c < 0xE000)
        out.append(text + random.choice("a 1'"))
    return [text.encode() for text in dict.fromkeys(out)] + BROKEN


def main():
    all_texts, cases, ids, decoded = texts(), [], [], []

    def record(text, model, special, result):
        cases.append((text, model, special, len(result)))
        ids.extend(result)
        decoded.append(real.decode(result).encode())

    for m, (name, arguments) in enumerate(MODELS.items()):
        path = train(name, arguments, DATA)
        opencoder = name == "inflm"
        write_gguf(path, path.replace(".model", ".gguf"), opencoder, ADDED if opencoder else ())
        if opencoder:
            real = inflm(path, sys.argv[1])
            for i, text in enumerate(all_texts[: -len(BROKEN)]):
                text = text.decode()
                record(i, m, True, real.encode(text, add_special_tokens=False))
                if "<" in text:
                    record(i, m, False, real.encode(text, add_special_tokens=False,
                                                    split_special_tokens=True))
        else:
            real = sentencepiece.SentencePieceProcessor(path)
            for i, text in enumerate(all_texts):
                record(i, m, False, real.encode(text))
    out = os.path.join(DATA, "tok_cases.gguf")
    w = gguf.GGUFWriter(out, "test")
    w.add_string("made_by", "seed %d, Python %s, transformers %s, sentencepiece %s, gguf %s" % (
        SEED, sys.version.split()[0], transformers.__version__, sentencepiece.__version__,
        importlib.metadata.version("gguf")))
    w.add_array("model", list(MODELS))
    w.add_array("text", all_texts)
    w.add_array("decoded", decoded)
    columns = zip(("case_text", "case_model", "case_special", "case_ids"), zip(*cases))
    for key, values in [*columns, ("ids", ids)]:
        w.add_key_value(key, [int(v) for v in values], gguf.GGUFValueType.ARRAY,
                        gguf.GGUFValueType.UINT16)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()
    print("%d texts, %d cases, %d ids" % (len(all_texts), len(cases), len(ids)))


main()
