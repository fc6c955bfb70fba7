#!/usr/bin/env python3
"""ablation.py FILE...: what a part of the recipe is worth: the cookbook with it, and without.

    make ablation NAME=dedup          plans/ablations/dedup, or what of it is not done yet
    make ablations                    all of them
    make ablation NAME=dedup DRY=1    only show the commands

What to know first: an ablation is an INI file that names a base plan and variants of it, each a few
keys that differ, as `section.key = value`. Every variant is trained for every seed, on as many
tokens. What comes from outside is the same for all of them: the held-out files, of which nothing
stays in what any variant learns from, and the vocabulary, both made by the base plan. A stage of
the cookbook works in build/ablations/STAGE-KEY/, where the key is the hash of all that decides its
result: so variants, seeds and ablations share what does not differ, and the same command goes on
where the last one stopped. The first variant is the paper's choice, to which others are compared.
Test: tests/test_ablation.py."""

import argparse
import os
import re
import signal
import time

import compare
from cookbook import STAGES, ending, keys_of, read_plan, stop
from kitchen import Kitchen
from plan import PlanError, read_sections, unknown
from report import copy_whole
from stages import whole

PLACE = os.path.join("build", "ablations")
OWN = {
    "about": "what is compared, in a sentence", "base": "the plan that is varied",
    "paper": "what OpenCoder's paper found, and where", "until": "the last stage that trains",
    "seeds": "runs of each variant", "note": "a sentence about the data, for the report",
}
# What is compared after each of the stages that may be the last one, and what it has no use for.
TRAINED = {"pretrain": ("pretrain",), "anneal": ("anneal",), "sft-2": ("sft-1", "sft-2")}
USELESS = {"pretrain": "instruct mixture anneal sft-1 sft-2 export report",
           "anneal": "sft-1 sft-2 export report", "sft-2": "export report"}
MODEL = {"pretrain": "base", "anneal": "annealed", "sft-1": "stage-1", "sft-2": "chat"}
FIRST_SEED = 42


class Ablation:
    """own: {key: text}; common and variants[name]: [(section of the plan, key, value)]."""

    def __init__(self, path, seeds):
        self.path = path
        self.sections = read_sections(path)
        self.own, self.variants = self.sections.get("ablation", {}), {}
        for key in OWN:
            if key != "note" and not self.own.get(key):
                raise PlanError(f"{path}: [ablation] {key}: missing, expected {OWN[key]}")
        for key in self.own:
            if key not in OWN:
                raise unknown(f"{path}: [ablation] {key}", key, OWN)
        if self.own["until"] not in TRAINED:
            raise PlanError(f"{path}: [ablation] until: '{self.own['until']}', expected one of "
                            f"{' '.join(TRAINED)}")
        seeds = seeds or self.own["seeds"]
        if not re.fullmatch("[1-9][0-9]?", seeds):
            raise PlanError(f"{path}: [ablation] seeds: '{seeds}', expected a number from 1 to 99")
        self.seeds = int(seeds)
        for name in self.sections:
            word, _, variant = name.partition(" ")
            if word == "variant" and variant:
                self.variants[variant] = self.changes(name)
            elif name not in ("ablation", "all"):
                raise PlanError(f"{path}: [{name}]: expected [ablation], [all] and [variant NAME]")
        self.common = self.changes("all")
        if len(self.variants) < 2:
            raise PlanError(f"{path}: {len(self.variants)} [variant NAME], expected two or more")

    @property
    def name(self):
        return os.path.basename(self.path)

    def changes(self, name):
        """[(section of the plan, key, value)]; of `drop`, a section that is left out, no key."""
        found = []
        for key, value in self.sections.get(name, {}).items():
            section, _, inner = key.partition(".")
            if key == "drop":
                found += [(word, None, None) for word in value.split()]
            elif inner:
                found.append((section, inner, value))
            else:
                raise PlanError(f"{self.path}: [{name}] {key}: expected section.key, or drop")
        return found

    def plan(self, variant, seed, options, given):
        """The base plan as a variant has it. `given`: the base's held-out files and vocabulary."""
        options.plan = self.own["base"]
        plan = read_plan(options)
        plan.path = f"{self.path}: [variant {variant}]: {self.own['base']}"
        changes = self.variants.get(variant, [])
        for section in USELESS[self.own["until"]].split():
            plan.sections.pop(section, None)
        for section, key, value in self.common + changes:
            if section not in plan.sections:
                raise unknown(f"{self.path}: [variant {variant}] {section}.{key}" if key else
                              f"{self.path}: [variant {variant}] drop = {section}", section,
                              plan.sections)
            if key:
                plan.sections[section][key] = value
            else:
                del plan.sections[section]
        for section in {"pretrain-1", *MODEL} & set(plan.sections):
            plan.sections[section]["seed"] = str(FIRST_SEED + seed)
        last = [section for section in MODEL if section in plan.sections][-1]
        plan.sections.setdefault("evaluate", {})["models"] = MODEL[last]
        if given and any(section in ("collect", "refine") for section, _, _ in changes):
            plan.sections["refine"]["held-out-from"], vocabulary = given
            plan.sections["vocabulary"] = {"from": vocabulary}
        plan.check()
        return plan


class Bench:
    """One kitchen for all plans; done: the directories of stages that were looked after before."""

    def __init__(self, plan, options):
        self.kitchen, self.done = Kitchen(plan, options.output or PLACE, options.dry_run), set()
        if not options.dry_run:
            self.kitchen.lock_place()
            signal.signal(signal.SIGTERM, lambda *_: stop(self.kitchen))

    def cook(self, plan, title, until=None):
        """Does what of a plan is not done yet; leaves the kitchen with its paths and stamps."""
        kitchen, keys = self.kitchen, keys_of(plan, self.kitchen.dry)
        if not kitchen.dry:
            plan.check_files()
        kitchen.plan, kitchen.order = plan, []
        kitchen.folders = {name: f"{name}-{key[:12]}" for name, key in keys.items()}
        if kitchen.dry:
            print(f"\n#### {title}")
        else:
            kitchen.say(f"\n#### {title}")
        for name, _, function in STAGES:
            if name not in keys:
                continue
            if kitchen.folder(name) in self.done:
                kitchen.order.append(name)
            else:
                kitchen.cook(name, keys[name], function)
                self.done.add(kitchen.folder(name))
            if name == until:
                return


def run(ablation, options, bench):
    """Every variant with every seed, the first seed of all before the second; then the report."""
    kitchen, results = bench.kitchen, {variant: [] for variant in ablation.variants}
    bench.cook(ablation.plan("base", 0, options, None), f"{ablation.name}: what all share",
               "vocabulary")
    given = kitchen.path("refine", "held-out.jsonl"), kitchen.path("vocabulary", "vocab.gguf")
    seconds = {}
    for seed in range(ablation.seeds):
        for variant in ablation.variants:
            plan = ablation.plan(variant, seed, options, given)
            bench.cook(plan, f"{ablation.name}: {variant}, seed {seed + 1}")
            if not kitchen.dry:
                trained = TRAINED[ablation.own["until"]]
                results[variant].append(compare.result(kitchen, trained))
                seconds.update({kitchen.folder(name): stamp["seconds"]
                                for name, stamp in kitchen.stamps().items()})
    kitchen.cook(ablation.name, str(time.time()), lambda kitchen: compare.report(
        kitchen, ablation, results, sum(seconds.values())))
    for folder in [options.copy] if options.copy and not kitchen.dry else []:
        for name in sorted(os.listdir(whole(kitchen.path(ablation.name)))):
            if name.endswith((".md", ".svg")):
                copy_whole(whole(kitchen.path(ablation.name, name)), os.path.join(folder, name))


def read_options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("files", metavar="FILE", nargs="+", help="such as plans/ablations/dedup")
    parser.add_argument("--corpus", metavar="DIR", help="collect from this directory")
    parser.add_argument("--held-out", metavar="NAMES", help="its folders for validation alone")
    parser.add_argument("--against", metavar="FILES",
                        help="benchmarks that nothing of which may stay in the corpus")
    parser.add_argument("--tasks", metavar="FILES", help="benchmarks to solve: HumanEval, MBPP")
    parser.add_argument("--seeds", metavar="N", help="runs of each variant [what the file says]")
    parser.add_argument("-o", "--output", metavar="DIR",
                        help=f"where everything is made [{PLACE}]")
    parser.add_argument("--copy", metavar="DIR", help="copy reports and plots to this directory")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run none")
    return parser.parse_args()


def run_all(options):
    begun = time.time()
    ablations = [Ablation(path, options.seeds) for path in options.files]
    plans = [ablation.plan(variant, 0, options, None) for ablation in ablations
             for variant in ablation.variants]  # a wrong name is refused now
    bench = Bench(plans[0], options)
    for ablation in ablations:
        run(ablation, options, bench)
    if not options.dry_run:
        bench.kitchen.say(f"\nreports: {bench.kitchen.place}/NAME/NAME.md; this took "
                          f"{(time.time() - begun) / 60:.1f} minutes")


def main():
    options = read_options()
    ending(lambda: run_all(options))


if __name__ == "__main__":
    main()
