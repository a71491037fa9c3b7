"""Checks the source of a Python grader without running it: what the sandbox lacks is known from the source alone."""

import ast
from collections.abc import Iterable, Iterator

from app.core.spec.sandbox_names import BUILTINS, MODULES

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def check_source(source: str) -> None:
    """Raise ValueError, with the line, if the source cannot run in the sandbox or has no `grade(sample, item)`."""
    try:
        tree = ast.parse(source)
        _check_grade(tree)
        _check_imports(tree)
        _check_names(tree)
        _check_module_names(tree)
    except SyntaxError as error:
        raise ValueError(f"is not valid Python: line {error.lineno}: {error.msg}") from error
    except (RecursionError, MemoryError) as error:
        raise ValueError("cannot be parsed as Python: it is nested too deeply") from error


def _check_grade(tree: ast.Module) -> None:
    functions = [node for node in tree.body if isinstance(node, _Function) and node.name == "grade"]
    if not functions:
        raise ValueError("does not define the function 'grade'; write 'def grade(sample, item): ... return <number>'")
    grade = functions[-1]
    if isinstance(grade, ast.AsyncFunctionDef):
        raise ValueError(f"line {grade.lineno}: `grade` must not be async; write 'def grade(sample, item):'")
    parameters = [*grade.args.posonlyargs, *grade.args.args]
    if len(parameters) != 2:
        raise ValueError(
            f"line {grade.lineno}: `grade` must take exactly two arguments; write 'def grade(sample, item):'"
        )
    _check_body(grade, {parameter.arg for parameter in parameters})


def _check_body(grade: ast.FunctionDef, parameters: set[str]) -> None:
    body = [node for statement in grade.body for node in ast.walk(statement)]
    dicts = parameters - _bound_names(body)
    for node in body:
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=field) if name in dicts and not hasattr(dict, field):
                raise ValueError(f"line {node.lineno}: `{name}` is a dict; write {name}[{field!r}]")
    for value in _returns(grade):
        if isinstance(value, ast.Dict | ast.List | ast.Tuple | ast.Set | ast.JoinedStr) or (
            isinstance(value, ast.Constant) and isinstance(value.value, str)
        ):
            raise ValueError(f"line {value.lineno}: `grade` must return a number")


def _returns(function: ast.AST) -> Iterator[ast.expr]:
    """Yield the values that a function returns, without those of functions inside it."""
    for node in ast.iter_child_nodes(function):
        if isinstance(node, ast.Return) and node.value is not None:
            yield node.value
        elif not isinstance(node, _Function | ast.Lambda | ast.ClassDef):
            yield from _returns(node)


def _untried(tree: ast.AST, exceptions: set[str]) -> Iterator[ast.AST]:
    """Yield all nodes except those in a `try` that handles one of the exceptions; "" is a bare `except`."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if isinstance(node, ast.Try) and any(_handled(handler) & exceptions for handler in node.handlers):
            for part in (*node.handlers, *node.orelse, *node.finalbody):
                yield from _untried(part, exceptions)
        else:
            yield from _untried(node, exceptions)


def _handled(handler: ast.ExceptHandler) -> set[str]:
    if handler.type is None:
        return {""}
    return {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}


def _check_imports(tree: ast.Module) -> None:
    for node in _untried(tree, {"ImportError", "ModuleNotFoundError", "Exception", "BaseException", ""}):
        match node:
            case ast.Import(names=names):
                for name in names:
                    _check_module(node, name.name)
            case ast.ImportFrom(module=str(module), level=0, names=names) if module != "__future__":
                _check_module(node, module)
                for name in names:
                    _check_member(node, module, name.name)
            case ast.ImportFrom(level=level) if level:
                raise ValueError(f"line {node.lineno}: a grader is one file and has no relative imports")


def _check_module(node: ast.stmt, module: str) -> None:
    if module not in MODULES:
        usable = ", ".join(sorted(MODULES))
        raise ValueError(f"line {node.lineno}: the sandbox has no module {module!r}. It has: {usable}")


def _check_member(node: ast.stmt | ast.expr, module: str, name: str) -> None:
    if name == "*":
        raise ValueError(f"line {node.lineno}: the sandbox has no `import *`; import the names one by one")
    if name not in MODULES[module] and not name.startswith("_"):
        usable = ", ".join(sorted(MODULES[module]))
        raise ValueError(f"line {node.lineno}: {module!r} has no {name!r} in the sandbox. It has: {usable}")


def _check_names(tree: ast.Module) -> None:
    # A broader handler would hide the missing name and grade every answer alike, so it does not count.
    known = BUILTINS | _bound_names(ast.walk(tree))
    unevaluated = _annotations(tree)
    for node in _untried(tree, {"NameError"}):
        if isinstance(node, ast.Name) and node.id not in known and node not in unevaluated:
            raise ValueError(f"line {node.lineno}: the name {node.id!r} does not exist in the sandbox")


def _annotations(tree: ast.Module) -> set[ast.AST]:
    """Return the nodes of all annotations, which the sandbox does not evaluate."""
    fields = (getattr(node, field, None) for node in ast.walk(tree) for field in ("annotation", "returns"))
    return {node for field in fields if isinstance(field, ast.AST) for node in ast.walk(field)}


def _check_module_names(tree: ast.Module) -> None:
    """Check attributes of modules (`re.VERBOSE`), of names that stand for one module only."""
    nodes = list(ast.walk(tree))
    imports = [name for node in nodes if isinstance(node, ast.Import) for name in node.names]
    others = _bound_names(node for node in nodes if not isinstance(node, ast.Import | ast.alias))
    others |= {name.asname or name.name for node in nodes if isinstance(node, ast.ImportFrom) for name in node.names}
    modules = {name.asname or name.name.partition(".")[0]: name for name in imports}
    for node in _untried(tree, {"AttributeError"}):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id not in others:
            name = modules.get(node.value.id)
            module = "" if name is None else name.name if name.asname else node.value.id
            if module in MODULES:
                _check_member(node, module, node.attr)


def _bound_names(nodes: Iterable[ast.AST]) -> set[str]:
    names: set[str] = set()
    for node in nodes:
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.arg(arg=name):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.alias(name=name, asname=alias):
                names.add(alias or name.partition(".")[0])
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                names.add(name)
            case ast.MatchMapping(rest=str(name)):
                names.add(name)
    return names
