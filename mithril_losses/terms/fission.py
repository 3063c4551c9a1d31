"""A function of scalars is cut into stages, each of which becomes a separate loop.

A processor looks a few hundred instructions ahead. If terms have several exponentials and logarithms, one step of the
loop has about as many instructions, so the processor waits for one chain of operations after the other. In a loop with
a single one of these functions, the chains of many elements overlap. So terms are cut where such a function needs the
result of another. What a later stage needs is kept in a buffer that fits the first-level cache.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterable
from typing import NamedTuple


class Stage(NamedTuple):
    """A part of a function.

    Attributes:
        inputs: the names that the stage reads: arguments of the function, or outputs of earlier stages.
        outputs: the names that later stages read; none for the last stage, which returns what the function does.
        definition: a function of the inputs that returns the outputs.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    definition: ast.FunctionDef


class _Assignment(NamedTuple):
    targets: tuple[str, ...]
    value: ast.expr
    is_expensive: bool
    is_condition: bool

    @property
    def reads(self) -> list[str]:
        return _names(self.value)


def stages_of(function: ast.FunctionDef, expensive: frozenset[str]) -> list[Stage]:
    """Return the stages of a function: a single one, if the function does more than assign numbers to names and return.

    Args:
        function: the function to cut.
        expensive: the names of slow functions, as they are called in it. A function of a namespace returns a number.
    """
    arguments = [argument.arg for argument in function.args.args]
    *body, last = copy.deepcopy(function.body)
    holds_tuples = any(isinstance(node, ast.Subscript) for node in ast.walk(function))
    if holds_tuples or not all(map(_targets, body)) or not isinstance(last, ast.Return) or last.value is None:
        return [Stage(tuple(arguments), (), function_of(f"{function.name}_0", arguments, function.body))]
    flat = _Flat(expensive)
    for statement in body:
        assert isinstance(statement, ast.Assign)
        flat.assign(_targets(statement), statement.value)
    return _linked(function.name, arguments, flat.assignments, flat.read(last.value))


def _targets(statement: ast.stmt) -> list[str]:
    """Return the names to which a statement assigns numbers; none if it does anything else."""
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if not isinstance(value, ast.Tuple):
            return [name]
        case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Call() | ast.Tuple()):  # not the name of a tuple
            return (
                [n.id for n in names if isinstance(n, ast.Name)] if all(isinstance(n, ast.Name) for n in names) else []
            )
    return []


def _names(node: ast.expr) -> list[str]:
    """Return the names that an expression reads, other than those it calls."""
    called = {id(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)}
    return [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and id(n) not in called and n.id != "xp"]


class _Flat(ast.NodeTransformer):
    """Rewrites assignments so that every name is assigned once, and expensive calls stand alone."""

    def __init__(self, expensive: frozenset[str]) -> None:
        self.assignments: list[_Assignment] = []
        self._expensive = expensive
        self._current: dict[str, str] = {}
        self._conditions: set[str] = set()

    def assign(self, targets: list[str], value: ast.expr) -> None:
        if isinstance(value, ast.Tuple):
            groups = [([name], self.read(x, alone=True)) for name, x in zip(targets, value.elts, strict=True)]
        else:
            groups = [(targets, self.read(value, alone=len(targets) == 1))]
        for names, read in groups:
            unique = [f"{name}__{len(self.assignments)}" for name in names]
            self._current |= dict(zip(names, unique, strict=True))
            self._append(unique, read)

    def read(self, value: ast.expr, *, alone: bool = False) -> ast.expr:
        """Return an expression in the current names, without expensive calls; if `alone` is set, it may be one."""
        if alone and self._is_expensive(value):
            self.generic_visit(value)
            return value
        found: ast.expr = self.visit(value)
        return found

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self._current.get(node.id, node.id), node.ctx)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if not self._is_expensive(node) or isinstance(node.func, ast.Name):
            return node
        name = f"value__{len(self.assignments)}"
        self._append([name], node)
        return ast.Name(name, ast.Load())

    def _append(self, names: list[str], value: ast.expr) -> None:
        is_condition = self._is_condition(value)
        self._conditions |= set(names) if is_condition else set()
        is_expensive = any(map(self._is_expensive, ast.walk(value)))
        self.assignments.append(_Assignment(tuple(names), value, is_expensive, is_condition))

    def _is_expensive(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and ast.unparse(node.func) in self._expensive

    def _is_condition(self, value: ast.expr) -> bool:
        match value:
            case ast.Compare() | ast.BoolOp() | ast.BinOp(op=ast.BitAnd() | ast.BitOr() | ast.BitXor()):
                return True
            case ast.UnaryOp(op=ast.Not() | ast.Invert()):
                return True
            case ast.Name(id=name):
                return name in self._conditions
        return False


def _linked(name: str, arguments: list[str], assignments: list[_Assignment], result: ast.expr) -> list[Stage]:
    """Return the stages: expensive assignments of a stage do not need each other; all others come as late as possible.

    A condition is not kept but evaluated again, because the buffers hold numbers.
    """
    made_by = {target: assignment for assignment in assignments for target in assignment.targets}
    depth: dict[str, int] = {}  # the length of the longest chain of expensive assignments that leads to a name
    for assignment in assignments:
        own = max((depth[x] for x in assignment.reads if x in depth), default=0) + assignment.is_expensive
        depth |= dict.fromkeys(assignment.targets, own)
    last = max([1, *depth.values()]) - 1
    read_in = dict.fromkeys(_names(result), last)
    parts: list[list[_Assignment]] = [[] for _ in range(last + 1)]
    for assignment in reversed(assignments):
        if assignment.is_expensive:
            stage = depth[assignment.targets[0]] - 1
        else:
            stage = min((read_in[target] for target in assignment.targets if target in read_in), default=last)
        parts[stage].insert(0, assignment)
        read_in |= {x: min(stage, read_in.get(x, last)) for x in assignment.reads}
    stages: list[Stage] = []
    missing: set[str] = set()  # what later stages read
    for stage in reversed(range(last + 1)):
        part, results = parts[stage], _names(result) if stage == last else []
        while conditions := [c for x in _reads(part, results) if (c := made_by.get(x)) and c.is_condition]:
            part = [a for a in assignments if a in part or a in conditions]
        outputs = tuple(x for a in part for x in a.targets if x in missing)
        inputs = _reads(part, results)
        missing = (missing - set(outputs)) | {x for x in inputs if x not in arguments}
        body = [ast.Assign([_tuple(a.targets, ast.Store())], a.value) for a in part]
        returned = result if stage == last else _tuple(outputs, ast.Load())
        stages.insert(0, Stage(inputs, outputs, function_of(f"{name}_{stage}", inputs, [*body, ast.Return(returned)])))
    return stages


def _reads(part: list[_Assignment], results: list[str]) -> tuple[str, ...]:
    """Return the names that some assignments and results read and that these assignments do not define."""
    made = {target for assignment in part for target in assignment.targets}
    read = [*(x for assignment in part for x in assignment.reads), *results]
    return tuple(dict.fromkeys(x for x in read if x not in made))


def _tuple(names: tuple[str, ...], context: ast.expr_context) -> ast.expr:
    found: list[ast.expr] = [ast.Name(x, context) for x in names]
    return found[0] if len(found) == 1 else ast.Tuple(found, context)


def function_of(name: str, arguments: Iterable[str], body: list[ast.stmt]) -> ast.FunctionDef:
    """Return a function of plain arguments."""
    signature = ast.arguments([], [ast.arg(x) for x in arguments], None, [], [], None, [])
    return ast.fix_missing_locations(ast.FunctionDef(name, signature, body, [], None))
