"""collect.py: the first stage: source files into collect/raw/, a directory for each repository.

What to know first: `packages` are Debian packages by name, fetched with apt-get download and opened
with dpkg-deb -x, so nothing is installed and no root is needed; a package is a repository. The name
`installed` is the library of the Python that runs this, whose top-level packages are repositories;
that needs no network. `forks` are made up: on GitHub three files of four are copies. A `corpus` is
a directory that stays where it is, and whose top-level folders are repositories. Held-out
repositories are named here, and told apart by refine."""

import hashlib
import os
import re
import shutil
import sys
import sysconfig
import zlib

from kitchen import CookError, digest
from plan import ROOT

PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+$")
ONE_IN = 20  # of a corpus without held-out names: the share of files that only validation sees
FORK = "-fork-"
LARGEST = 8 << 20  # the paper's limit for a file


def left_out(path, names):
    """Does a path lead through a directory of these names?"""
    return not names.isdisjoint(path.split("/")[:-1])


def chance(text):
    """A number above 0, at most 1, which the text decides."""
    return (int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") + 1) / 2 ** 32


def copy_tree(source, target, leave_out, keep=lambda path: True):
    """Copies the regular files below a directory; links and what cannot be read are passed over."""
    count = 0
    for place, directories, files in os.walk(source):
        directories[:] = sorted(set(directories) - leave_out - {"__pycache__"})
        below = os.path.join(target, os.path.relpath(place, source))
        for name in sorted(files):
            path = os.path.join(place, name)
            if os.path.islink(path) or not os.path.isfile(path) or \
                    os.path.getsize(path) > LARGEST or \
                    not keep(os.path.relpath(path, source)):
                continue
            os.makedirs(below, exist_ok=True)
            try:
                shutil.copyfile(path, os.path.join(below, name))
            except OSError:
                continue
            count += 1
    return count


def copy_library(raw, leave_out):
    """The standard library: a repository for each package, and "modules" for the single files."""
    library = sysconfig.get_path("stdlib")
    leave_out = leave_out | {"site-packages", "dist-packages", "__pycache__"}
    os.makedirs(os.path.join(raw, "modules"), exist_ok=True)
    for name in sorted(os.listdir(library)):
        path = os.path.join(library, name)
        if os.path.isdir(path) and name not in leave_out:
            copy_tree(path, os.path.join(raw, name), leave_out)
        elif name.endswith(".py") and os.path.isfile(path):
            shutil.copyfile(path, os.path.join(raw, "modules", name))


def fetch(kitchen, names, leave_out):
    """Packages to collect/raw/NAME/; those that are there already are not fetched again."""
    debs, raw = (os.path.join(ROOT, kitchen.here(name)) for name in ("debs", "raw"))
    if not kitchen.dry:
        os.makedirs(debs, exist_ok=True)
        there = {name.split("_")[0] for name in os.listdir(debs) if name.endswith(".deb")}
        names = [name for name in names if name not in there]
    if names:
        # apt-get writes into the directory where it is started.
        kitchen.run("env", "-C", kitchen.here("debs"), "apt-get", "download", "-q", *names)
    if kitchen.dry:
        kitchen.run("dpkg-deb", "-x", kitchen.here("debs", "NAME_*.deb"),
                    kitchen.here("raw", "NAME"))
        return
    for deb in sorted(os.listdir(debs)):
        if not deb.endswith(".deb"):
            continue
        name = deb.split("_")[0]
        opened = os.path.join(debs, name)
        if os.path.exists(os.path.join(raw, name)):
            continue
        shutil.rmtree(opened, ignore_errors=True)
        kitchen.run("dpkg-deb", "-x", kitchen.here("debs", deb), kitchen.here("debs", name))
        copy_tree(opened, os.path.join(raw, name + ".part"), leave_out)
        shutil.rmtree(opened)
        if not os.path.isdir(os.path.join(raw, name + ".part")):
            raise CookError(f"collect: package {name}: no files, expected sources; it may only "
                            "depend on others")
        os.rename(os.path.join(raw, name + ".part"), os.path.join(raw, name))


def fork(raw, number, held):
    """Made-up forks of all repositories but these: `number` of most, up to four times as many of a
    few, each with half of the files. Which ones, the names decide."""
    for name in sorted(os.listdir(raw)):
        if name in held or FORK in name:
            continue
        for k in range(min(int(number / chance(f"forks of {name}")), 4 * number)):
            target = f"{name}{FORK}{k + 1}"
            copy_tree(os.path.join(raw, name), os.path.join(raw, target), set(),
                      lambda path, target=target: chance(f"{target}/{path}") <= 0.5)


def fingerprint(corpus):
    """Changes when a file of the corpus does: of paths, sizes and times."""
    if not os.path.isdir(corpus):
        raise CookError(f"corpus {corpus}: no directory, expected one with source files")
    total = 0
    for place, directories, files in os.walk(corpus):
        directories.sort()
        for name in sorted(files):
            path = os.path.join(place, name)
            try:
                status = os.lstat(path)
            except OSError:
                continue
            line = f"{path}\0{status.st_size}\0{status.st_mtime_ns}"
            total = zlib.crc32(line.encode(errors="surrogateescape"), total)
    return total


def outside(plan):
    """What collect depends on beside its section: for the stamp."""
    if plan.get("collect", "corpus"):
        return fingerprint(os.path.join(ROOT, plan.get("collect", "corpus")))
    names = plan.words("collect", "packages")
    return digest([sys.version, sysconfig.get_path("stdlib")]) if "installed" in names else 0


def check_held_out(plan, folder):
    names = plan.words("collect", "held-out")
    there = {name for name in os.listdir(folder) if os.path.isdir(os.path.join(folder, name))}
    for name in names:
        if name not in there:
            raise CookError(f"{plan.path}: [collect] held-out: {name}: not collected, expected one "
                            f"of {' '.join(sorted(there)[:40])}")
    return len(there)


def collect(kitchen):
    plan = kitchen.plan
    corpus = plan.get("collect", "corpus")
    if corpus:
        kitchen.do(f"repositories are the folders of {corpus}", lambda: None)
        return {} if kitchen.dry else {
            "repositories": check_held_out(plan, os.path.join(ROOT, corpus))}
    names = plan.words("collect", "packages")
    leave_out = set(plan.words("collect", "leave-out"))
    raw = os.path.join(ROOT, kitchen.here("raw"))
    for name in names:
        if not PACKAGE.match(name):
            raise CookError(f"{plan.path}: [collect] packages: '{name}', expected names of Debian "
                            "packages, or installed")
    if "installed" in names:
        kitchen.do(f"copy Python's library to {kitchen.here('raw')}", copy_library, raw, leave_out)
    if set(names) - {"installed"}:
        if not kitchen.dry:
            os.makedirs(raw, exist_ok=True)
        fetch(kitchen, [name for name in names if name != "installed"], leave_out)
    forks = plan.number("collect", "forks", 0)
    if forks:
        kitchen.do(f"made-up forks: {forks} of most repositories, with half of their files", fork,
                   raw, forks, plan.words("collect", "held-out"))
    if kitchen.dry:
        return {}
    return {"repositories": check_held_out(plan, raw), "python": sys.version.split()[0],
            "packages": sorted(name for name in os.listdir(os.path.join(raw, "..", "debs"))
                               if name.endswith(".deb"))
            if os.path.isdir(os.path.join(raw, "..", "debs")) else []}
