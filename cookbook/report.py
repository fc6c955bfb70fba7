"""report.py: what a run made, measured and took, as Markdown with SVG plots.

What to know first: every number comes from the stamps of the stages (kitchen.py) and from the
records that ./train writes; nothing is measured here. build/plot draws. The report is a file of the
stage's directory, and a copy of it lies in build/cookbook/PLAN/ and where [report] copy says."""

import json
import os
import platform
import shutil
import time

from kitchen import write_text
from measure import models
from stages import whole
from tuning import read_lines

TRAINED = ("pretrain-1", "pretrain", "anneal", "sft-1", "sft-2")
POINTS = 1000  # of a curve


def processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def table(head, rows):
    """Markdown; numbers stand on the right."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def duration(seconds):
    seconds = round(seconds)
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def figure(value, form="{:.4f}"):
    return form.format(value) if isinstance(value, (int, float)) else ""


# --------------------------------------------------------------------------------------- plots
def read_curve(kitchen, stage):
    """[(update, loss smoothed, validation or "", learning rate)] of a stage, thinned out."""
    with open(whole(kitchen.path(stage, "model.bin.csv")), encoding="utf-8") as file:
        names = file.readline().strip().split(",")
        rows = [dict(zip(names, line.strip().split(","))) for line in file]
    mean, curve = None, []
    every = len(rows) // POINTS + 1
    for number, row in enumerate(rows):
        if row["loss"]:
            share = 1 / (1 + min(number, len(rows) // 50))
            loss = float(row["loss"])
            mean = loss if mean is None else mean + share * (loss - mean)
        if mean is not None and (number % every == 0 or row["val_loss"]):
            curve.append((int(row["step"]), mean, row["val_loss"], row["lr"]))
    return curve


def plot(kitchen, name, lines, *words):
    """NAME.csv and NAME.svg of the report."""
    source = kitchen.here(name + ".csv")
    if not kitchen.dry:
        write_text(whole(source), "\n".join(lines) + "\n")
    kitchen.run("build/plot", source, kitchen.here(name + ".svg"), *words)


def plot_losses(kitchen, stages):
    """All stages over one axis, each with a color of its own, loss and validation."""
    width, begin = 2 * len(stages) + 1, 0
    lines = [",".join(["update"] + [f"{stage}{end}" for stage in stages
                                    for end in ("", " validation")] + ["learning rate"])]
    for number, stage in enumerate(stages if not kitchen.dry else ()):
        curve = read_curve(kitchen, stage)
        for step, loss, val, rate in curve:
            cells = [""] * width
            cells[2 * number], cells[2 * number + 1], cells[-1] = f"{loss:.5g}", val, rate
            lines.append(",".join([str(begin + step), *cells]))
        begin += curve[-1][0] if curve else 0
    plot(kitchen, "losses", lines, "--title", f"{kitchen.plan.name}: loss of every stage",
         "--x", "update", "--y", "nats a token", "--right", "learning rate",
         "--right-label", "learning rate")


def plot_bars(kitchen, name, values, title, label):
    """A bar for each (name, value)."""
    values = values or [("nothing was measured", 0)]
    lines = [",".join(["number"] + [text.replace(",", ";") for text, _ in values]),
             ",".join(["1"] + [f"{value:.5g}" for _, value in values])]
    plot(kitchen, name, lines, "--bars", "--title", title, "--y", label)


# --------------------------------------------------------------------------------------- sections
def stage_rows(stamps):
    for name, stamp in stamps.items():
        figures = stamp["figures"]
        val = [figures.get(key + "val_loss") for key in ("first ", "")]
        yield (name, duration(stamp["seconds"]), figure(figures.get("updates"), "{:,}"),
               figure(figures.get("tokens"), "{:,}"), figure(figures.get("loss")),
               "" if not val[1] else f"{val[0]:.4f} > {val[1]:.4f}" if val[0] != val[1] else
               figure(val[1]),
               figure(figures.get("val_bits_per_byte")))


def funnel_rows(kitchen):
    """What was left behind each stage of refine, by the statistics that it wrote."""
    for name in "stats.json", "shared.json":
        try:
            with open(whole(kitchen.path("refine", name)), encoding="utf-8") as file:
                stages = json.load(file)["stages"]
        except OSError:
            continue
        for stage in stages:
            title = stage["stage"] if name == "stats.json" else "held-out text, once more"
            why = ", ".join(f"{reason} {found['files']:,}" for reason, found in
                            sorted(stage["dropped"].items(),
                                   key=lambda item: -item[1]["files"])[:4])
            yield (title, f"{stage['out']['files']:,}", f"{stage['out']['bytes']:,}", why)


def data_section(kitchen, stamps):
    refine, pack = stamps["refine"]["figures"], stamps["pack"]["figures"]
    text = ["## Data", "", "![bytes behind each stage](funnel.svg)", "",
            table(("behind", "files", "bytes", "files dropped most, and why"),
                  funnel_rows(kitchen)), ""]
    after, held = refine["after decontamination"], refine["held-out"]
    text.append(f"For training {after['files']:,} files, {after['bytes']:,} bytes, "
                f"{pack['train'].get('tokens', 0):,} tokens; held out {held['files']:,} files, "
                f"{held['bytes']:,} bytes, {pack['val'].get('tokens', 0):,} tokens. "
                f"Vocabulary: {stamps['vocabulary']['figures']['printed']}.")
    instruct = stamps.get("instruct", {}).get("figures")
    if instruct:
        text.append(f"Of {instruct['pairs']:,} pairs of instruction and answer, of which "
                    f"{instruct['with passing examples']:,} pass their own examples, stage 1 has "
                    f"{instruct['stage 1']:,} and stage 2 {instruct['stage 2']:,}.")
    anneal = stamps.get("anneal", {}).get("figures")
    if anneal:
        parts = ", ".join(os.path.basename(part) for part in anneal["mixture"])
        gone = f" (no {' and no '.join(anneal['absent'])} files in this corpus)" \
            if anneal["absent"] else ""
        text.append(f"Annealed on {parts}{gone}.")
    return text + [""]


def score_rows(figures):
    for name, row in figures["models"].items():
        done = row.get("completions") or {}
        count = done.get("functions", 0)
        yield (name, figure(row["bits"]), f"{done.get('parse', 0)} of {count}",
               f"{done.get('parse, docstrings and pass not counted', 0)} of {count}",
               *(f"{score['passed']}/{score['total']}" if score else ""
                 for score in row["scores"].values()))
    for name, bits in figures["text"]["bits"].items():
        yield (name, figure(bits), *[""] * (2 + len(next(iter(figures["models"].values()))
                                                    ["scores"])))


def score_section(figures):
    text = figures["text"]
    tasks = list(next(iter(figures["models"].values()))["scores"])
    return ["## How good is it?", "", f"Bits per byte of {text['files']} held-out files, "
            f"{text['bytes']:,} bytes, as one text; greedy completions of held-out function "
            "headers that Python's parser takes for functions of at least two statements, and "
            "how many have two beside docstrings and `pass`" +
            ("; tasks solved." if tasks else "; no benchmark's file was given."), "",
            table(("", "bits per byte", "parse", "and do something", *tasks), score_rows(figures)),
            "", "![bits per byte](bits.svg)", "", "![completions and scores](scores.svg)", ""]


def block(text):
    """Code as Markdown, indented: no fence in it can end it."""
    return "\n".join(("    " + line).rstrip() for line in text.split("\n")) + "\n"


def sample_section(kitchen, figures):
    name, _ = models(kitchen)[-1]
    done = figures["models"][name].get("completions") or {"good": [], "bad": []}
    text = ["## Samples", "", f"Of the model `{name}`, greedy. Completions that parse:", ""]
    text += [block(sample) for sample in done["good"]]
    text += ["Completions that do not:", ""] + [block(sample) for sample in done["bad"]]
    text += ["What it makes of a beginning, or of a question:", ""]
    for row in read_lines(kitchen.path("evaluate", f"{name}-answers.jsonl")):
        text.append(block(row["prompt"] + row["completion"]))
    return text


def limit_section(kitchen, stamps):
    """What nobody should expect of such a model, with its own figures."""
    figures = stamps["evaluate"]["figures"]
    name, _ = models(kitchen)[-1]
    row = figures["models"][name]
    done = row.get("completions") or {"functions": 0, "parse": 0}
    solved = ", ".join(f"{result['passed']} of {result['total']} tasks of {task}"
                       for task, result in row["scores"].items() if result)
    seen = sum(stamps[stage]["figures"]["tokens"] for stage in ("pretrain-1", "pretrain", "anneal")
               if stage in stamps)
    unique = stamps["pack"]["figures"]["train"].get("tokens", 0)
    return ["## What it cannot do", "",
            f"It has read {seen:,} tokens ({seen / max(unique, 1):.2g} times its corpus), where "
            "OpenCoder-1.5B has read 2e12. It knows how its corpus looks: indentation, names, "
            "idioms. What a program does it does not know: "
            f"{done['functions'] - done['parse']} of {done['functions']} completions are no "
            "functions of two statements"
            + (f", and it solves {solved}" if solved else "") + ". Answers have the form of "
            "answers, not more; it knows no facts, and no language but that of its corpus, whose "
            "text may come back word for word. Run nothing that it writes outside of a sandbox.",
            ""]


def command_section(stamps, plan):
    text = ["## How to make it", "", f"`make cookbook PLAN={plan.path}` runs these commands; lines "
            "with # are steps of the cookbook itself. The plan:", ""]
    with open(whole(plan.path), encoding="utf-8") as file:
        text.append(block(file.read().rstrip()))
    for name, stamp in stamps.items():
        text += [f"{name}:", "", block("\n".join(stamp["commands"]))]
    return text


def write_report(kitchen, stamps):
    plan = kitchen.plan
    about = plan.get("plan", "about", "a run of the cookbook")
    with open(whole(kitchen.path("export", "inspect.txt")) if "export" in stamps else os.devnull,
              encoding="utf-8") as file:
        shape = [line.strip() for line in file.read().split("\n")[1:4] if line]
    last = max(stamp["ended"] for stamp in stamps.values())
    text = [f"# {plan.name}: {about}", "",
            f"Made {time.strftime('%Y-%m-%d', time.gmtime(last))} by `make cookbook "
            f"PLAN={plan.path}` on {os.cpu_count()} threads of {processor()}, in "
            f"{duration(sum(stamp['seconds'] for stamp in stamps.values()))}.", ""]
    if shape:
        size = stamps["export"]["figures"]["bytes"]
        text += [f"The model, {size:,} bytes: " + "; ".join(shape) + ".", ""]
    text += ["## Stages", "", table(("stage", "time", "updates", "tokens", "loss", "validation",
                                     "bits per byte"), stage_rows(stamps)), "",
             "![losses](losses.svg)", "",
             "Losses are nats a token, training smoothed; pretraining and annealing are validated "
             "on held-out files, the tuning on answers about held-out functions, so the two are "
             "not to be compared.", ""]
    text += data_section(kitchen, stamps)
    if "evaluate" in stamps:
        text += score_section(stamps["evaluate"]["figures"])
        text += sample_section(kitchen, stamps["evaluate"]["figures"])
        text += limit_section(kitchen, stamps)
    write_text(whole(kitchen.here("report.md")), "\n".join(text + command_section(stamps, plan)))


def report(kitchen):
    plan = kitchen.plan
    stamps = {} if kitchen.dry else kitchen.stamps()
    plot_losses(kitchen, [stage for stage in TRAINED if stage in plan.sections])
    figures = stamps.get("evaluate", {}).get("figures")
    if figures or kitchen.dry and "evaluate" in plan.sections:
        rows = figures["models"].items() if figures else ()
        bits = [(name, row["bits"]) for name, row in rows] + \
            list(figures["text"]["bits"].items() if figures else ())
        plot_bars(kitchen, "bits", bits, "bits per byte on held-out files", "bits per byte")
        plot_bars(kitchen, "scores", list(percentages(rows)),
                  "completions that parse, tasks solved", "%")
    kitchen.do(f"{kitchen.here('report.md')}, beside {kitchen.path('refine', 'funnel.svg')}",
               finish, kitchen, stamps)
    return {}


def percentages(rows):
    for name, row in rows:
        done = row.get("completions")
        if done and done["functions"]:
            yield f"{name}: parse", 100 * done["parse"] / done["functions"]
        for task, result in row["scores"].items():
            if result:
                yield f"{name}: {task}", 100 * result["passed"] / result["total"]


def finish(kitchen, stamps):
    shutil.copyfile(whole(kitchen.path("refine", "funnel.svg")), whole(kitchen.here("funnel.svg")))
    write_report(kitchen, stamps)


# --------------------------------------------------------------------------------------- copies
def copy_whole(source, target):
    """A file appears whole or not at all."""
    os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
    shutil.copyfile(source, target + ".tmp")
    os.replace(target + ".tmp", target)


def publish(kitchen):
    """Report and model where the plan wants them: after every run, and only if it says so."""
    plan, here = kitchen.plan, kitchen.path("report")
    for folder in filter(None, (kitchen.place, plan.get("report", "copy"))):
        if kitchen.dry:
            print(f"# copy report.md and its plots to {folder}/")
            continue
        for name in sorted(os.listdir(whole(here))):
            if name.endswith((".md", ".svg")):
                copy_whole(whole(os.path.join(here, name)), whole(os.path.join(folder, name)))
    target = plan.get("export", "install")
    if target:
        print(f"# copy {kitchen.path('export', 'model.bin')} to {target}")
        if not kitchen.dry:
            copy_whole(whole(kitchen.path("export", "model.bin")), whole(target))
    if not kitchen.dry:
        kitchen.say(f"\nthe report is {kitchen.place}/report.md")
