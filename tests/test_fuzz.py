"""No code in data, and nothing but this project's own errors from damage of every kind."""

import ast
import json
import subprocess
import sys
from typing import Any

import pytest
from cli_world import ENVIRONMENT, REPOSITORY

from benchmarks.fuzz_targets import TARGETS

# No code in data


SOURCES = [
    path
    for package in ("reid_index", "extractors", "cli")
    for path in sorted((REPOSITORY / package).rglob("*.py"))
]
RUNS_CODE = {"pickle", "cPickle", "shelve", "marshal", "dill", "joblib", "cloudpickle", "runpy"}
NEEDED = {
    "np.load": "allow_pickle=False",
    "read_array": "allow_pickle=False",
    "torch.load": "weights_only=True",
}
REFUSED = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load"}


def running_code(tree: ast.AST) -> list[str]:
    """What in a file could run code that data bring along."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [name for name in names if name.partition(".")[0] in RUNS_CODE]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func).replace("numpy.", "np.")
        words = [ast.unparse(word) for word in node.keywords]
        for name, word in NEEDED.items():
            if (called == name or called.endswith(f".{name}")) and word not in words:
                found.append(f"{called} without {word}")
        found += [called] if called in REFUSED or called.startswith("pickle.") else []
        found += ["a shell"] if "shell=True" in words else []
        found += (
            ["objects"] if "allow_pickle=True" in words or "weights_only=False" in words else []
        )
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_nothing_runs_code_that_data_bring_along(path):
    # PyTorch tells of a file that is no checkpoint by an error of pickle's, which is caught.
    allowed = ["pickle"] if path.name == "checkpoint.py" else []
    assert running_code(ast.parse(path.read_text())) == allowed


@pytest.mark.parametrize(
    "code",
    [
        "from pickle import load",
        "import joblib.memory",
        "np.load(path)",
        "numpy.load(path, allow_pickle=True)",
        "np.lib.format.read_array(file)",
        "torch.load(path, map_location='cpu')",
        "torch.load(path, weights_only=False)",
        "eval(text)",
        "subprocess.run(words, shell=True)",
    ],
)
def test_code_that_does_is_found(code):
    assert running_code(ast.parse(code))
    assert not running_code(ast.parse("np.load(p, allow_pickle=False); network.eval()"))


# Damage of every kind


def fuzzed(program: str) -> dict[str, Any]:
    """What a program prints as JSON, in a process that has no threads that a fork would lose."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_fuzzing_run_finds_what_goes_wrong():
    program = """
import json, os, signal, time
from random import Random
from benchmarks import fuzz
from benchmarks.fuzz_targets import Target
from reid_index.errors import BadItems

fuzz.SECONDS, fuzz.MEMORY = 1, 2**30
NUMBERS = {Random(f"7 odd {number}").random(): number for number in range(9)}

def refuse(*lines):
    raise BadItems("\\n".join(lines))

TODO = {
    1: lambda: os.kill(os.getpid(), signal.SIGSEGV),
    2: lambda: time.sleep(30),
    3: lambda: bytearray(2**31),
    4: lambda: {}["gone"],
    5: lambda: os._exit(3),
    6: lambda: refuse("one line"),
    7: lambda: refuse("one", "two"),
}

def start(folder):
    return lambda rng: TODO.get(NUMBERS[rng.random()], list)()

tally = fuzz.fuzz(Target("odd", lambda folder: None, start), 9, seed=7)
print(json.dumps([tally.cases, tally.accepted, tally.refused, tally.failures]))
"""
    cases, accepted, refused, failures = fuzzed(program)
    assert (cases, accepted, refused) == (9, 2, {"BadItems": 1})
    assert {one["case"]: one["what"] for one in failures} == {
        1: "ended by SIGSEGV",
        2: "over 1 s",
        3: "MemoryError: ",
        4: "KeyError: 'gone'",
        5: "ended with exit code 3",
        7: "BadItems of 2 lines: ['one', 'two']",
    }


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of a short run over all targets."""
    out = tmp_path_factory.mktemp("fuzz") / "fuzz.json"
    words = ["--cases", "900", "--seed", "1", "--out", str(out)]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.fuzz", *words],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
    )
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_nothing_but_our_own_errors_comes_out(target, damaged):
    if target.missing:
        assert damaged["not there"][target.name] == target.missing
        pytest.skip(f"{', '.join(target.missing)} is not installed")
    found = damaged["targets"][target.name]
    assert found["failures"] == []
    assert found["cases"] == found["accepted"] + sum(found["refused"].values()) > 20
    # Neither is everything refused before it is looked at, nor everything taken as it comes.
    assert min(found["accepted"], found["cases"] - found["accepted"]) > 0
