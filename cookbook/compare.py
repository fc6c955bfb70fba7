"""compare.py: from the stamps of the runs of an ablation to its table, plots and verdicts.

What to know first: a figure of a variant is the mean over its seeds. Differences are taken seed by
seed, because the runs of a seed begin alike; the spread is how far the differences of one variant
lie apart, the largest of all variants. A difference that is not larger is called no difference:
with a few seeds that is a rule of thumb, no test."""

import csv
import os
import time

from kitchen import write_text
from report import duration, plot, processor, table
from stages import whole


def read_rows(kitchen, stage):
    with open(whole(kitchen.path(stage, "model.bin.csv")), encoding="utf-8") as file:
        return list(csv.DictReader(file))


def result(kitchen, trained):
    """Figures of the run that the kitchen has just seen to. curve: [(tokens, validation loss)] of
    the stages that are compared, one after the other."""
    stamps = kitchen.stamps()
    stages = [stage for stage in trained if stage in stamps]
    rows = read_rows(kitchen, stages[-1])
    tail = [float(row["loss"]) for row in rows[-max(len(rows) // 10, 1):] if row["loss"]]
    (_, model), = stamps["evaluate"]["figures"]["models"].items()
    done = model.get("completions") or {"functions": 0, "parse": 0}
    curve, before = [], 0
    for stage in stages:
        curve += [(before + int(row["tokens"]), float(row["val_loss"]))
                  for row in read_rows(kitchen, stage) if row["val_loss"]]
        before += stamps[stage]["figures"]["tokens"]
    return {"documents": stamps["refine"]["figures"]["after decontamination"]["files"],
            "tokens": stamps["pack"]["figures"]["train"].get("tokens", 0),
            "trained": before, "loss": sum(tail) / max(len(tail), 1),
            "pairs": stamps[stages[-1]]["figures"].get("val_loss"),
            "bits": model["bits"], "parse": (done["parse"], done["functions"]),
            "scores": {name: (score["passed"], score["total"])
                       for name, score in model["scores"].items() if score},
            "held-out": stamps["evaluate"]["figures"]["text"], "curve": curve}


# --------------------------------------------------------------------------------------- verdicts
def mean(values):
    return sum(values) / len(values)


def compare(results, key):
    """{variant: difference to the first one}, and the spread, None where there is one seed."""
    first, *others = results
    found, spread = {}, 0.0
    for name in others:
        apart = [b[key] - a[key] for a, b in zip(results[first], results[name])]
        found[name] = mean(apart)
        spread = max(spread, max(apart) - min(apart))
    return found, spread if len(results[first]) > 1 else None


def verdict(difference, spread):
    if spread is None:
        return "one seed, no verdict"
    if abs(difference) <= spread:
        return "no difference"
    return "worse" if difference > 0 else "better"


def conclusion(results, key, what):
    """Sentences: what came out, and whether it speaks for the paper's choice."""
    differences, spread = compare(results, key)
    first = next(iter(results))
    if spread is None:
        return "One seed alone shows no spread, so nothing is said about the differences."
    said = {name: verdict(value, spread) for name, value in differences.items()}
    text = [f"The paper's choice is `{first}`. Differences in {what} to it, where those of one "
            f"variant lie {spread:.4f} apart between seeds at most:"]
    text.append("; ".join(f"`{name}` {value:+.4f}, {said[name]}"
                          for name, value in differences.items()) + ".")
    better = [f"`{name}`" for name in said if said[name] == "better"]
    same = [f"`{name}`" for name in said if said[name] == "no difference"]
    if better:
        text.append(f"That differs from the paper: {', '.join(better)} did better here.")
    if same:
        text.append(f"{', '.join(same)} cannot be told from it here.")
    if not better and not same:
        text.append("That speaks for the paper's choice.")
    return " ".join(text)


# --------------------------------------------------------------------------------------- pictures
def is_near(point, other):
    """Were two losses taken after as many tokens, but for ends of documents and padding?"""
    return other and abs(point[0] - other[0]) <= 0.02 * other[0]


def curves(results, relative):
    """Lines of CSV: tokens, and for each variant the mean over seeds of the validation loss; or of
    its distance from the first variant's at the same point."""
    names = list(results)
    lines = {}
    for name in names:
        runs = [run["curve"] for run in results[name]]
        for at in range(min(map(len, runs))):
            tokens = round(mean([curve[at][0] for curve in runs]))
            lines.setdefault(at, {})[name] = tokens, mean([curve[at][1] for curve in runs])
    text = [",".join(["tokens", *names])]
    for name in names:
        for row in lines.values():
            if name in row and (not relative or is_near(row[name], row.get(names[0]))):
                value = row[name][1] - (row[names[0]][1] if relative else 0)
                cells = [f"{value:.5g}" if other == name else "" for other in names]
                text.append(",".join([str(row[name][0]), *cells]))
    return text


def draw(kitchen, ablation, results, what):
    name, about, first = ablation.name, ablation.own["about"], next(iter(results))
    for file, relative, title, label in (
            (name, False, about, f"validation loss on {what}, nats a token"),
            (name + "-differences", True, f"{about}: differences",
             f"validation loss above that of {first}")):
        plot(kitchen, file, [] if kitchen.dry else curves(results, relative), "--title", title,
             "--x", "tokens trained", "--y", label)


# --------------------------------------------------------------------------------------- report
def rows_of(results, key, tuned):
    differences, spread = compare(results, key)
    for name, runs in results.items():
        done = [sum(run["parse"][i] for run in runs) for i in (0, 1)]
        cells = [f"`{name}`", f"{runs[0]['documents']:,}", f"{runs[0]['tokens']:,}",
                 f"{round(mean([run['trained'] for run in runs])):,}",
                 f"{mean([run['loss'] for run in runs]):.4f}"]
        if tuned:
            cells.append(f"{mean([run['pairs'] for run in runs]):.4f}")
        cells += [f"{mean([run['bits'] for run in runs]):.4f}",
                  ", ".join(f"{run[key]:.4f}" for run in runs),
                  f"{differences[name]:+.4f}, {verdict(differences[name], spread)}"
                  if name in differences else "", f"{done[0]} of {done[1]}"]
        for task in runs[0]["scores"]:
            cells.append(" of ".join(str(sum(run["scores"][task][i] for run in runs))
                                     for i in (0, 1)))
        yield cells


def report(kitchen, ablation, results, seconds):
    """The stage that makes NAME.svg, NAME-differences.svg and NAME.md."""
    tuned = ablation.own["until"].startswith("sft")
    draw(kitchen, ablation, results, "held-out pairs" if tuned else "held-out files")
    kitchen.do(kitchen.here(ablation.name + ".md"), write_report, kitchen, ablation, results,
               seconds, tuned)


def write_report(kitchen, ablation, results, seconds, tuned):
    first = next(iter(results.values()))
    key, what = ("pairs", "loss on held-out pairs") if tuned else ("bits", "bits per byte")
    head = ["variant", "documents", "tokens left", "tokens trained", "training loss",
            *(["loss on held-out pairs"] if tuned else []), "bits per byte", f"{what}, by seed",
            "difference to the first", "completions that parse", *first[0]["scores"]]
    held, name = first[0]["held-out"], ablation.name
    text = [f"# {name}: {ablation.own['about']}", "",
            f"Made {time.strftime('%Y-%m-%d', time.gmtime())} by `make ablation NAME={name}` on "
            f"{os.cpu_count()} threads of {processor()}: stages of {duration(seconds)}, shared "
            "ones counted once.", "",
            f"In the paper: {ablation.own['paper']}", "",
            table(head, list(rows_of(results, key, tuned))), "",
            conclusion(results, key, what), "", f"![validation losses]({name}.svg)", "",
            f"![their differences]({name}-differences.svg)", "",
            "Seeds decide the first weights and the order of what is learned; figures are means "
            f"over {len(first)}, completions sums; lower is better but for those. Training loss is "
            "that of the last tenth of the updates, bits per byte those of "
            f"{held['files']} held-out files, {held['bytes']:,} bytes; "
            "held-out files and vocabulary are those of the base plan, the same for all variants, "
            "and no 32 words in a row of them stay in what a variant learns from.",
            *([ablation.own["note"]] if ablation.own.get("note") else []), "", "The file:", ""]
    with open(whole(ablation.path), encoding="utf-8") as file:
        text += [("    " + line).rstrip() for line in file.read().rstrip().split("\n")]
    write_text(whole(kitchen.here(name + ".md")), "\n".join(text) + "\n")
