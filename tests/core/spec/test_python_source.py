"""Sources of Python graders: what the sandbox lacks is refused with its line; what it has is accepted."""

import builtins
import contextlib
import importlib
import sys

import pydantic_monty as monty
import pytest

from app.core.graders.python_sandbox import LIMITS
from app.core.spec.python_source import check_source
from app.core.spec.sandbox_names import BUILTINS, MODULES

GRADE = "def grade(sample, item):\n    return 1.0\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import numpy as np\n" + GRADE, "line 1: the sandbox has no module 'numpy'. It has: asyncio, base64"),
        ("import string, math\n" + GRADE, "line 1: the sandbox has no module 'string'"),
        ("import re\nfrom rapidfuzz import fuzz\n" + GRADE, "line 2: the sandbox has no module 'rapidfuzz'"),
        ("from collections.abc import Mapping\n" + GRADE, "no module 'collections.abc'"),
        ("def grade(sample, item):\n    import enum\n    return 1", "line 2: the sandbox has no module 'enum'"),
        ("from collections import Counter, OrderedDict\n" + GRADE, "line 1: 'collections' has no 'OrderedDict'"),
        ("import re as r\nWORD = r.compile('x', r.VERBOSE)\n" + GRADE, "line 2: 're' has no 'VERBOSE' in the sandbox"),
        ("import os\n" + GRADE + "X = os.getpid()\n", "line 4: 'os' has no 'getpid' in the sandbox. It has: altsep"),
        ("from math import *\n" + GRADE, "line 1: the sandbox has no `import *`"),
        ("from . import other\n" + GRADE, "line 1: a grader is one file"),
        ("try:\n    import numpy\nexcept ValueError:\n    pass\n" + GRADE, "line 2: the sandbox has no module"),
        ("def grade(sample, item):\n    return len(dir(sample))", "line 2: the name 'dir' does not exist"),
        ("def grade(sample, item):\n    return scor(sample)", "line 2: the name 'scor' does not exist"),
        (
            "def grade(sample, item):\n    try:\n        return json.loads('')\n    except Exception:\n        pass",
            "line 3: the name 'json' does not exist",
        ),
        ("def grade(sample, item):\n    return sample.output_text == '5'", "`sample` is a dict; write sample['output_"),
        ("def grade(s, row):\n    return row.answer == s['output_text']", "`row` is a dict; write row['answer']"),
        ("def grade(sample, item):\n    return '0.5'", "line 2: `grade` must return a number"),
        ("def grade(sample, item):\n    return {'score': 1.0}", "line 2: `grade` must return a number"),
        ("async def grade(sample, item):\n    return 1.0", "line 1: `grade` must not be async"),
        ("def grade(sample):\n    return 1.0", "line 1: `grade` must take exactly two arguments"),
        ("def score(sample, item):\n    return 1.0", "does not define the function 'grade'"),
        ("def grade(sample, item):\nreturn 1", "is not valid Python: line 2"),
    ],
)
def test_source_that_cannot_run_is_refused(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        check_source(source)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "import re\nimport json\n" + GRADE,
        "from __future__ import annotations\nfrom typing import Any, Dict\nimport os.path\n" + GRADE,
        "try:\n    import numpy\nexcept ImportError:\n    numpy = None\n" + GRADE,
        "try:\n    text = unicode\nexcept NameError:\n    text = str\n" + GRADE,
        "from dataclasses import dataclass\n@dataclass\nclass R:\n    score: float\n" + GRADE,
        "class Checker:\n    def ok(self, text):\n        return text\n" + GRADE,
        "import datetime\nfrom datetime import datetime\nNOW = datetime.now()\n" + GRADE,
        "import os\nX = os.path.join('a', 'b')\nimport os.path as p\nY = p.join('a', 'b')\n" + GRADE,
        "import re\ntry:\n    X = re.VERBOSE\nexcept AttributeError:\n    X = 0\n" + GRADE,
        "def helper(text: Text) -> Number:\n    return 1.0\n" + GRADE,
        "def grade(sample, item, **options):\n    words = sorted(item, key=lambda w: len(w))\n    return len(words)",
        "def grade(sample, item):\n    def name():\n        return 'x'\n    return len(name())",
        "def grade(sample, item):\n    return item.get('x', 0) + len(sample.keys())",
        "def grade(sample, item):\n    if (n := len(item)) > 1:\n        return n\n    return [x for x in (1, 2)][0]",
        "def grade(sample, item):\n    match item:\n        case {'a': a, **rest}:\n            return len(rest)"
        "\n        case [first, *others]:\n            return len(others)\n        case _:\n            return 0.0",
        "TOTAL = 0\ndef grade(sample, item):\n    global TOTAL\n    TOTAL += 1\n    return TOTAL",
        "def grade(sample, item):\n    for i, (a, b) in enumerate(item):\n        pass\n    return 1",
        "def grade(sample, item):\n    try:\n        return float(item['output_text'])\n    except ValueError as error:"
        "\n        print(error)\n        return 0",
        'if __name__ == "__main__":\n    pass\n' + GRADE,
    ],
)
def test_source_that_runs_is_accepted(source: str) -> None:
    check_source(source)
    with monty.Monty(max_processes=1) as sandbox, sandbox.checkout(limits=LIMITS) as session:
        session.feed_run(source)


def test_names_are_those_of_the_sandbox() -> None:
    """Every module of the standard library and every built-in name, tried in the sandbox."""
    modules = {name for name in sys.stdlib_module_names if not name.startswith("_")} | {"os.path", "collections.abc"}
    with monty.Monty(max_processes=1) as sandbox, sandbox.checkout(limits=LIMITS) as session:

        def runs(source: str) -> bool:
            try:
                session.feed_run(source)
            except monty.MontyError:
                return False
            return True

        assert {name for name in modules if runs(f"import {name}")} == set(MODULES)
        names = {*dir(builtins), "__file__", "__annotations__", "__builtins__"}
        assert {name for name in names if runs(name)} == BUILTINS


@pytest.mark.parametrize("module", sorted(MODULES))
def test_module_names_are_those_of_the_sandbox(module: str) -> None:
    names = MODULES[module] | {name for name in dir(importlib.import_module(module)) if not name.startswith("_")}
    with monty.Monty(max_processes=1) as sandbox, sandbox.checkout(limits=LIMITS) as session:
        session.feed_run(f"import {module} as module")
        found = set()
        for name in names:
            with contextlib.suppress(monty.MontyError):
                session.feed_run(f"module.{name}")
                found.add(name)
    assert found == MODULES[module]


def test_deep_source_is_refused() -> None:
    with pytest.raises(ValueError, match=r"nested too deeply"):
        check_source("x = " + "1 + " * 4000 + "1\n" + GRADE)
