"""Makes a copy of the core in which every mutant stands behind a switch, and builds its tests."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CRATE = "core/overlaybd"

# Rounds of the compiler until nothing is refused any more: each may lay open what the one before has hidden.
ROUNDS = 12

# Built once, run for a moment each: what is quick to build wins. Dependencies are as in other tests.
PROFILE = ("profile.dev.package.overlaybd.opt-level=0", "profile.dev.package.overlaybd.debug=0")


@dataclass
class Program:
    """One program of tests."""

    path: str
    name: str
    tests: list[str] = field(default_factory=list)


def mutants_of(tree: Path, files: list[str]) -> list[dict[str, Any]]:
    """List the mutants of some files (globs below the crate's `src`), as cargo-mutants makes them."""
    command = ["cargo", "mutants", "--list", "--json", "--dir", str(tree / "core"), "--package", "overlaybd"]
    command += ["--config", str(ROOT / ".cargo/mutants.toml")]
    for name in files:
        command += ["--file", f"overlaybd/src/{name}"]
    return list(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def copy(tree: Path) -> None:
    """Bring `tree` up to the working tree's files; those that are the same keep their time."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    for name in filter(None, names):
        source, target = ROOT / name, tree / name
        if not source.is_file() or name.startswith("docs/"):
            continue
        if target.is_file() and target.read_bytes() == source.read_bytes():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        shutil.copymode(source, target)


def put_in(tree: Path, mutants: list[dict[str, Any]], rewriter: Path) -> list[dict[str, Any]]:
    """Write all mutants that are not refused yet into the tree; returns where they stand."""
    for file in {mutant["file"] for mutant in mutants}:
        shutil.copyfile(ROOT / "core" / file, tree / "core" / file)
    out = subprocess.run(
        [rewriter, tree / "core"], input=json.dumps(mutants).encode(), check=True, capture_output=True
    )
    answer = json.loads(out.stdout)
    for refusal in answer["refused"]:
        mutants[refusal["number"]]["without"] = refusal["why"]
    source = tree / CRATE / "src"
    shutil.copyfile(ROOT / "core/mutants/switch.rs", source / "mutants.rs")
    library = (ROOT / CRATE / "src/lib.rs").read_text()
    allow = "#![allow(warnings, arithmetic_overflow, unconditional_panic)]\n"
    (source / "lib.rs").write_text(f"{allow}{library}\n#[doc(hidden)]\npub mod mutants;\n")
    return list(answer["places"])


def cargo(tree: Path, *args: str) -> Iterator[dict[str, Any]]:
    """Run cargo on the tree; gives its messages."""
    command = ["cargo", args[0], "--manifest-path", str(tree / "core/Cargo.toml"), "--package", "overlaybd"]
    command += [*args[1:], "--locked", "--message-format=json", *(f"--config={text}" for text in PROFILE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith(b"{"):
                yield json.loads(line)


def refuse(message: dict[str, Any], places: list[dict[str, Any]], mutants: list[dict[str, Any]]) -> bool:
    """Lay a compiler's error to the mutants that it comes from; returns whether there are any."""
    for span in sorted(message["spans"], key=lambda span: not span["is_primary"]):
        around = [
            place
            for place in places
            if span["file_name"].endswith(place["file"])
            if place["start"] <= span["byte_start"] and span["byte_end"] <= place["end"]
        ]
        if not around:
            continue
        nearest = min(around, key=lambda place: place["end"] - place["start"])
        # The text of one mutant does not compile; or, of a whole site, that it stands behind a switch at all.
        why = "unviable" if len(nearest["numbers"]) == 1 and nearest["kind"] == "text" else "apart"
        for number in nearest["numbers"]:
            mutants[number]["without"] = why
        return True
    return False


def settle(tree: Path, mutants: list[dict[str, Any]], rewriter: Path) -> None:
    """Put mutants in until all that are in compile; the others are marked with why they are not."""
    for mutant in mutants:
        # Both have to return one type, which nobody has named.
        if mutant["genre"] == "FnValue" and "impl " in mutant["function"]["return_type"]:
            mutant["without"] = "apart"
    for turn in range(ROUNDS):
        places = put_in(tree, mutants, rewriter)
        messages = [
            entry["message"] for entry in cargo(tree, "check") if entry["reason"] == "compiler-message"
        ]
        errors = [error for error in messages if error["level"] == "error" and error["spans"]]
        print(f"round {turn}: {len(errors)} errors", flush=True)
        if not errors:
            return
        known = [refuse(error, places, mutants) for error in errors]
        if not any(known):
            raise SystemExit("\n".join(error["rendered"] for error in errors))
    raise SystemExit(f"the mutants do not compile after {ROUNDS} rounds")


def programs(tree: Path, *which: str) -> list[Program]:
    """Build the tests; gives the programs and what is in them."""
    found = []
    for entry in cargo(tree, "test", "--no-run", *which):
        if entry["reason"] == "compiler-message" and entry["message"]["level"] == "error":
            print(entry["message"]["rendered"], flush=True)
        if entry["reason"] == "compiler-artifact" and entry.get("executable") and entry["profile"]["test"]:
            found.append(Program(entry["executable"], entry["target"]["name"]))
    for program in found:
        command = [program.path, "--list", "--format", "terse"]
        out = subprocess.run(
            command, check=True, capture_output=True, cwd=tree / CRATE, env=os.environ
        ).stdout
        lines = out.decode().split("\n")
        program.tests = [line.removesuffix(": test") for line in lines if line.endswith(": test")]
    return found
