"""Nothing in the package can run code that came from a file or a socket."""

import ast
from pathlib import Path

import pytest

import streamrecon

ROOT = Path(streamrecon.__file__).parent
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "jsonpickle"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
METHODS = {"recv_pyobj", "send_pyobj", "recv_serialized", "system", "popen"}


def dangers(source):
    """Return what is dangerous in a module's text, as ``line: what``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").split(".")[0]]
        found += [f"{node.lineno}: import {name}" for name in names if name in MODULES]
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", None) or getattr(node.func, "attr", "")
        if (isinstance(node.func, ast.Name) and name in BUILTINS) or name in METHODS:
            found.append(f"{node.lineno}: {name}()")
        keywords = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        if keywords.get("shell") or keywords.get("allow_pickle"):
            found.append(f"{node.lineno}: {name}(shell or allow_pickle)")
        reads_arrays = ast.unparse(node.func) in ("np.load", "numpy.load")
        if reads_arrays and keywords.get("allow_pickle", True) is not False:
            found.append(f"{node.lineno}: {name}() without allow_pickle=False")
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_runs_what_it_reads(path):
    assert dangers(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "eval(text)",
        "sock.recv_pyobj()",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.save(path, x, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
    ],
)
def test_the_search_finds_what_it_looks_for(source):
    assert len(dangers(source)) >= 1
