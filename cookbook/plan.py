"""plan.py: reads a plan, the INI file that says what to make, and checks every name in it.

What to know first: a section is a stage, and a key of it is a long option of the program that the
stage starts, asked of that program's -h, so that nothing is learned twice and no list goes stale;
or one of the few keys of the cookbook itself, which stand in OWN below. A flag is `yes` or `no`; an
option that may be repeated takes several words. Anything else is refused by name."""

import configparser
import difflib
import os
import re
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OPTION = re.compile(r"^ +(?:-\w, )?--([a-z][a-z0-9-]*)(?: ([A-Z][A-Z=]*))?(?: |$)")
# Keys of the cookbook, and what they mean; the other keys of a section are options of its program.
OWN = {
    "plan": {"about": "a sentence for the report", "trainer": "./train, ./traincuda",
             "threads": "of every program", "launch": "what starts the trainer: mpirun -n 8",
             "mfu": "part of a GPU's peak, for the hours that are printed", "peak": "of a GPU"},
    "collect": {"packages": "Debian packages by name; installed: the running Python's library",
                "corpus": "a directory instead; its folders are the repositories",
                "held-out": "packages or top-level folders, for validation alone",
                "forks": "made-up ones of each package, with half of its files: so many, or more",
                "leave-out": "directories by name, wherever they lie"},
    "refine": {"languages": "which to keep", "against": "benchmarks, as JSON Lines",
               "held-out-words": "words in a row that may not be shared with held-out files",
               "stars": "JSON Lines with repo and stars; or made-up, from a hash of the name",
               "held-out-from": "a file of held-out documents, of another run, instead of ours"},
    "vocabulary": {"from": "a GGUF file that has one, instead of learning it"}, "pack": {},
    "pretrain-1": {"minutes": "at most so long; the last checkpoint is the result"},
    "pretrain": {"minutes": "at most so long; the last checkpoint is the result"},
    "mixture": {"parts": "original=84 algorithmic=12.4 synthetic=3.6",
                "phrases": "texts of algorithmic files, with ; between",
                "writer": "a chat model that writes the synthetic part"},
    "anneal": {},
    "instruct": {"pairs": "at most so many in stage 1", "best": "at most so many in stage 2",
                 "validation": "pairs of held-out files, at most"},
    "sft-1": {"parts": "stage-1=1: shares of the pairs of both stages"},
    "sft-2": {"parts": "stage-2=1: shares of the pairs of both stages"},
    "export": {"model": "annealed or chat", "install": "where to copy the model at the end"},
    "evaluate": {"completions": "function headers to complete", "tokens": "of a completion",
                 "tasks": "HumanEval or MBPP, as JSON Lines",
                 "held-out-bytes": "of the text for bits per byte",
                 "models": "some of base annealed stage-1 chat exported"},
    "report": {"copy": "a directory of the tree for report and plots"},
}
# The program whose options a section may hold, and those that the cookbook sets itself.
PROGRAM = {
    "refine": ("./refine", "all"), "vocabulary": ("./tokenizer", "train"),
    "pack": ("./tokenizer", "pack"), "pretrain": ("TRAINER", "pretrain"),
    "pretrain-1": ("TRAINER", "pretrain"),
    "anneal": ("TRAINER", "anneal"), "sft-1": ("TRAINER", "sft"),
    "sft-2": ("TRAINER", "sft", "--stage", "2"), "export": ("./convert",),
    "evaluate": ("./evaluate",), "instruct": ("./refine", "instruct"),
}
TAKEN = {
    "refine": "output stats resume repo-depth repo meta stars quiet zstd threads "
              "other none",
    "vocabulary": "output model field threads", "pack": "output tokenizer kind field threads",
    "pretrain": "output resume tokenizer val plot threads stage lora lora-alpha",
    "anneal": "output resume tokenizer val plot threads stage init shape lora lora-alpha",
    "evaluate": "output completions canonical generate-only restart show-prompts chat lora quiet "
                "threads",
    "instruct": "output stats level from against resume zstd quiet threads",
    "export": "output-format tokenizer random seed inspect check keep-optimizer lora lora-scale",
}
TAKEN["sft-1"] = TAKEN["sft-2"] = TAKEN["anneal"]
TAKEN["pretrain-1"] = TAKEN["pretrain"] + " init"
# Numbers among the keys of OWN, their least value, and whether they are whole.
NUMBERS = {
    "threads": (1, True), "mfu": (1e-3, False), "peak": (1, False), "held-out-words": (0, True),
    "minutes": (0, False), "pairs": (1, True), "best": (1, True), "validation": (1, True),
    "completions": (1, True), "tokens": (1, True), "held-out-bytes": (1000, True),
    "forks": (1, True),
}
PARTS = {  # what a section's `parts` may have; unless told, and what must be there
    "mixture": ("original=84 algorithmic=12.4 synthetic=3.6", "original"),
    "sft-1": ("stage-1=1 stage-2=0", None), "sft-2": ("stage-1=0 stage-2=1", None),
}
# Of a new model; a second phase of pretraining has none of them.
SHAPE = set("shape dim layers heads kv-heads head-dim hidden ctx theta tied init-std "
            "init-scaled".split())
REQUIRED = ("collect", "refine", "vocabulary", "pack", "pretrain")
# They change nothing of what is made, so changing them starts nothing anew.
HARMLESS = {"log-every", "save-every", "keep", "sample-every", "prompt", "temp", "minutes",
            "verbose", "threads", "install", "copy", "against", "tasks", "val-every", "val-rows",
            "about", "held-out-from", "from"}
# Of ./traincuda, where it is not built: what its -h adds to that of ./train.
CUDA_OPTIONS = {"recompute-level": ("N", False), "bf16-gradients": (None, False),
                "bf16-moments": (None, False)}


class PlanError(Exception):
    """One line: <file>: [section] key: what was found, what was expected."""


def help_of(words):
    program = os.path.join(ROOT, words[0])
    try:
        done = subprocess.run([program, *words[1:], "-h"], cwd=ROOT, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise PlanError(f"{words[0]}: {error.strerror}, expected a program; "
                        "`make all refine` builds it") from error
    return done.stdout


def options_of(words):
    """{long option: (its argument or None, may it be repeated)}, as a program's -h has them."""
    words, more = list(words), {}
    if words[0] == "./traincuda" and not os.path.exists(os.path.join(ROOT, "traincuda")):
        words[0], more = "./train", CUDA_OPTIONS
    found = dict(more)
    for line in help_of(words).splitlines():
        match = OPTION.match(line)
        if match:
            found[match.group(1)] = (match.group(2), "repeat" in line)
    return found


def unknown(where, name, known):
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; perhaps {near[0]}" if near else ""
    return PlanError(f"{where}: unknown, expected one of {' '.join(sorted(known))}{hint}")


def read_sections(path):
    """{section: {key: text}} of an INI file."""
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=("#",),
                                       default_section="\0none")
    parser.optionxform = str
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
    except OSError as error:
        raise PlanError(f"{path}: {error.strerror}, expected a plan such as plans/demo"
                        ) from error
    except (configparser.Error, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise PlanError(f"{path}: {text}, expected [sections] with lines `key = value`"
                        ) from error
    return {name: {key: " ".join((value or "").split()) for key, value in parser[name].items()}
            for name in parser.sections()}


class Plan:
    """sections: {name: {key: text}}, as written but for blanks and comments."""

    def __init__(self, path):
        self.path = path
        self.sections = read_sections(path)
        self._known = {}
        self.check()

    @property
    def name(self):
        return os.path.basename(self.path.rstrip("/"))

    def get(self, section, key, default=""):
        return self.sections.get(section, {}).get(key) or default

    def words(self, section, key):
        return self.get(section, key).split()

    def number(self, section, key, default):
        """The value of a key, of the default's type."""
        return type(default)(self.check_number(section, key, self.get(section, key, str(default)),
                                               0, isinstance(default, int)))

    def check_number(self, section, key, text, least, is_whole):
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value < 1e18 or (is_whole and value != int(value)):
            raise PlanError(f"{self.path}: [{section}] {key}: '{text}', expected a "
                            f"{'whole ' * is_whole}number of at least {least:g}")
        return value

    def parts(self, section):
        """{part of what a stage is trained on: its weight}; for annealing the paper's, unless
        told."""
        usual, needed = PARTS[section]
        found, names = {}, {word.partition("=")[0] for word in usual.split()}
        for word in self.get(section, "parts", usual).split():
            name, _, weight = word.partition("=")
            if name not in names or name in found:
                raise PlanError(f"{self.path}: [{section}] parts: '{word}', expected something "
                                f"like {usual}")
            found[name] = self.check_number(section, "parts", weight, 0, False)
        if not (found.get(needed) if needed else any(found.values())):
            raise PlanError(f"{self.path}: [{section}] parts: no {needed or 'weight above 0'}, "
                            "expected some of it")
        return found

    @property
    def trainer(self):
        return self.get("plan", "trainer", "./train")

    def options(self, section):
        """The options that a section's program knows and the cookbook does not set."""
        if section not in PROGRAM:
            return {}
        if section not in self._known:
            words = [self.trainer if w == "TRAINER" else w for w in PROGRAM[section]]
            known = options_of(words)
            for name in TAKEN[section].split():
                known.pop(name, None)
            self._known[section] = known
        return self._known[section]

    def check(self):
        for section in self.sections:
            if section not in OWN:
                raise unknown(f"{self.path}: [{section}]", section, OWN)
        for section in REQUIRED:
            if section not in self.sections:
                raise PlanError(f"{self.path}: [{section}] is missing, expected it in every plan")
        for section, keys in self.sections.items():
            if section == "plan":
                self.check_trainer()
            for key, value in keys.items():
                self.check_key(section, key, value)
        self.check_needs()
        for section in PARTS:
            self.parts(section)

    def check_files(self):
        """Files that are read at the end, after hours, are better missed at the beginning."""
        for section, key in ("refine", "against"), ("refine", "stars"), \
                ("refine", "held-out-from"), ("vocabulary", "from"), ("evaluate", "tasks"), \
                ("mixture", "writer"):
            for name in self.words(section, key):
                if name != "made-up" and not os.path.isfile(os.path.join(ROOT, name)):
                    raise PlanError(f"{self.path}: [{section}] {key}: {name}: no file, expected "
                                    f"{OWN[section][key]}")

    def check_trainer(self):
        if self.trainer not in ("./train", "./traincuda"):
            raise PlanError(f"{self.path}: [plan] trainer: '{self.trainer}', expected ./train or "
                            "./traincuda")

    def check_needs(self):
        for section, need in ("sft-1", "instruct"), ("sft-2", "instruct"), \
                ("anneal", "mixture"):
            if section in self.sections and need not in self.sections:
                raise PlanError(f"{self.path}: [{section}] without [{need}], which makes its data")
        if bool(self.get("collect", "packages")) == bool(self.get("collect", "corpus")):
            raise PlanError(f"{self.path}: [collect]: expected either packages or corpus")
        if self.get("collect", "forks") and self.get("collect", "corpus"):
            raise PlanError(f"{self.path}: [collect] forks: of a corpus, expected packages")
        for key in sorted(SHAPE & set(self.sections["pretrain"])):
            if "pretrain-1" in self.sections:
                raise PlanError(f"{self.path}: [pretrain] {key}: goes on with the model of "
                                "[pretrain-1], expected it there")

    def check_key(self, section, key, value):
        where = f"{self.path}: [{section}] {key}"
        if key in OWN[section]:
            if not value:
                raise PlanError(f"{where}: empty, expected {OWN[section][key]}")
            if key in NUMBERS:
                self.check_number(section, key, value, *NUMBERS[key])
            return
        if key in TAKEN.get(section, "").split():
            raise PlanError(f"{where}: set by the cookbook itself, expected it not in a plan")
        options = self.options(section)
        if key not in options:
            raise unknown(where, key, [*OWN[section], *options])
        if options[key][0] is None and value not in ("yes", "no"):
            raise PlanError(f"{where}: '{value}', expected yes or no")
        if options[key][0] and not value:
            raise PlanError(f"{where}: empty, expected {options[key][0]}")
        if options[key][0] in ("N", "X") and not options[key][1]:
            self.check_number(section, key, value, -1, options[key][0] == "N")

    def arguments(self, section):
        """The section as words of a command line, without the cookbook's own keys."""
        words = []
        for key, value in self.sections.get(section, {}).items():
            if key in OWN[section]:
                continue
            argument, repeated = self.options(section)[key]
            if argument is None:
                words += [f"--{key}"] if value == "yes" else []
            else:
                for word in value.split() if repeated else [value]:
                    words += [f"--{key}", word]
        return words

    def recipe(self, section):
        """What of a section decides what is made: goes into the stamp of its stage."""
        return sorted((key, value) for key, value in self.sections.get(section, {}).items()
                      if key not in HARMLESS)
