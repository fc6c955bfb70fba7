#!/usr/bin/env python3
"""cookbook.py PLAN: from raw source files to an evaluated chat model, by one command.

    make cookbook PLAN=plans/demo                  everything, or what of it is not done yet
    make cookbook PLAN=plans/demo CORPUS=DIR       on the files of a directory
    make cookbook PLAN=plans/8b DRY=1              only show the commands

What to know first: this starts the programs of this repository, in the order of OpenCoder's paper
(arXiv 2411.04905), and writes down what they print; everything about models is in them. plan.py
reads the plan, kitchen.py starts and remembers, the stages stand in the files that STAGES names.
Python's library is enough. Test: tests/test_cookbook.py."""

import argparse
import os
import signal
import sys
import time

import collect
import cost
import measure
import report
import stages
import tuning
from kitchen import CookError, Kitchen, Stopped, digest, digest_file
from plan import ROOT, Plan, PlanError

# A stage, what it is made from, and the function that makes it. Its section has the same name. What
# is made of data alone comes first, so that it fails before the hours of training, if it does.
STAGES = (
    ("collect", (), collect.collect),
    ("refine", ("collect",), stages.refine),
    ("vocabulary", ("refine",), stages.vocabulary),
    ("pack", ("refine", "vocabulary"), stages.pack),
    ("instruct", ("refine", "vocabulary"), tuning.instruct),
    ("mixture", ("refine", "vocabulary", "instruct"), tuning.mixture),
    ("pretrain-1", ("vocabulary", "pack"), stages.pretrain_1),
    ("pretrain", ("vocabulary", "pack", "pretrain-1"), stages.pretrain),
    ("anneal", ("pack", "pretrain", "mixture"), tuning.anneal),
    ("sft-1", ("instruct", "pretrain", "anneal"), tuning.sft_1),
    ("sft-2", ("instruct", "pretrain", "anneal", "sft-1"), tuning.sft_2),
    ("export", ("pretrain", "anneal", "sft-1", "sft-2"), measure.export),
    ("evaluate", ("refine", "pretrain", "instruct", "anneal", "sft-2", "export"),
     measure.evaluate),
    ("report", ("refine", "pack", "pretrain-1", "pretrain", "anneal", "sft-1", "sft-2", "export",
                "evaluate"), report.report),
)


def read_plan(options):
    path = os.path.join(ROOT, options.plan) if not os.path.exists(options.plan) else options.plan
    plan = Plan(os.path.relpath(path, ROOT) if path.startswith(ROOT) else path)
    if options.corpus:
        # The plan's packages, and what it holds out of them, are not in this corpus.
        plan.sections["collect"].pop("packages", None)
        plan.sections["collect"].pop("held-out", None)
        plan.sections["collect"].pop("forks", None)
        plan.sections["collect"]["corpus"] = os.path.abspath(options.corpus)
    plan.sections.setdefault("report", {})
    if options.held_out:
        plan.sections["collect"]["held-out"] = " ".join(options.held_out.split())
    if options.tasks and "evaluate" in plan.sections:
        plan.sections["evaluate"]["tasks"] = " ".join(options.tasks.split())
    if options.against:
        plan.sections["refine"]["against"] = " ".join(options.against.split())
    return plan


def key_of(plan, name, needs, keys, dry):
    """What decides a stage's result; of files from outside their bytes, or times where many. For
    commands that are only shown, the names of files will do."""
    outside = None
    if name == "collect" and not dry:
        outside = collect.outside(plan)
    files = {"refine": plan.words("refine", "against") + plan.words("refine", "held-out-from"),
             "mixture": plan.words("mixture", "writer"),
             "evaluate": plan.words("evaluate", "tasks")}
    if plan.get("refine", "stars", "made-up") != "made-up":
        files["refine"].append(plan.get("refine", "stars"))
    if plan.get("vocabulary", "from"):
        files["vocabulary"] = [plan.get("vocabulary", "from")]
    if name in files:
        outside = [path if dry else digest_file(os.path.join(ROOT, path)) for path in files[name]]
    if name == "report":  # takes a second, and says how long the others took
        outside = time.time()
    return digest([name, plan.recipe(name), [keys[need] for need in needs if need in keys],
                   outside])


def keys_of(plan, dry):
    """{stage: what decides its result} of a plan."""
    keys = {}
    for name, needs, _ in STAGES:
        if name in plan.sections:
            keys[name] = key_of(plan, name, needs, keys, dry)
    return keys


def cook(plan, options):
    kitchen = Kitchen(plan, options.output or os.path.join("build", "cookbook", plan.name),
                      options.dry_run)
    if "export" in plan.sections:
        measure.exported(plan)  # refuses a name now, not after hours
    measure.models(kitchen)
    if not options.dry_run:
        plan.check_files()
        kitchen.lock_place()
        signal.signal(signal.SIGTERM, lambda *_: stop(kitchen))
    keys = keys_of(plan, options.dry_run)
    if not options.dry_run and not options.redo:
        kitchen.refuse_to_redo(keys)
    for name, _, function in STAGES:
        if name not in plan.sections:
            continue
        kitchen.cook(name, keys[name], function)
        if name == options.until:
            return
    report.publish(kitchen)
    if plan.trainer == "./traincuda":
        for line in cost.lines(plan):
            print(f"# {line}")


def stop(kitchen):
    """SIGTERM comes to this process alone: pass it on, then do as with Ctrl-C."""
    if kitchen.child and kitchen.child.poll() is None:
        kitchen.child.send_signal(signal.SIGTERM)
    raise KeyboardInterrupt


def ending(work):
    """work(), and the end of a program that fails in it: exit code 1, or 130 for Ctrl-C."""
    try:
        work()
    except (CookError, PlanError) as error:
        sys.exit(f"error: {error}")
    except (KeyboardInterrupt, Stopped):
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def main():
    names = [name for name, _, _ in STAGES]
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("plan", metavar="PLAN", help="such as plans/demo")
    parser.add_argument("--corpus", metavar="DIR", help="collect from this directory")
    parser.add_argument("--held-out", metavar="NAMES", help="its folders for validation alone")
    parser.add_argument("--against", metavar="FILES",
                        help="benchmarks that nothing of which may stay in the corpus")
    parser.add_argument("-o", "--output", metavar="DIR",
                        help="where everything is made [build/cookbook/PLAN]")
    parser.add_argument("--tasks", metavar="FILES", help="benchmarks to solve: HumanEval, MBPP")
    parser.add_argument("--until", metavar="STAGE", choices=names, help="end after this stage")
    parser.add_argument("--redo", action="store_true",
                        help="train again what took long and does not fit the plan any more")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run none")
    options = parser.parse_args()
    ending(lambda: cook(read_plan(options), options))


if __name__ == "__main__":
    main()
