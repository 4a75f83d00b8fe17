"""What may not stand in the code that strangers reach, found in its syntax tree.

Whatever comes from the network or from another process is read as data: nothing here may turn bytes into code, hand
them to a shell, or find memory by a name.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_BUILTINS = {"eval", "exec", "compile", "__import__"}
_MODULES = {
    "pickle", "_pickle", "cPickle", "cloudpickle", "dill", "jsonpickle", "joblib", "marshal", "shelve",
    "multiprocessing.shared_memory", "_posixshmem", "posix_ipc", "sysv_ipc", "pty", "commands",
}  # fmt: skip
_CALLS = {
    "os.system": "a shell",
    "os.popen": "a shell",
    "subprocess.getoutput": "a shell",
    "subprocess.getstatusoutput": "a shell",
    "asyncio.create_subprocess_shell": "a shell",
    "tempfile.mktemp": "a name that somebody else can take",
    "yaml.unsafe_load": "YAML that builds objects",
    "yaml.unsafe_load_all": "YAML that builds objects",
    "yaml.full_load": "YAML that builds objects",
    "yaml.full_load_all": "YAML that builds objects",
    "numpy.load": "numpy's reader, which allocates what a header says",
    "numpy.lib.format.read_array": "numpy's reader, which allocates what a header says",
    "numpy.lib.format.read_array_header_1_0": "a header that is evaluated",
    "numpy.lib.format.read_array_header_2_0": "a header that is evaluated",
    "ast.literal_eval": "evaluation, which exhausts the stack",
    "ssl._create_unverified_context": "TLS without a check",
    "paddle.load": "a pickle",
    "torch.load": "a pickle",
}
_NAMES = {"yaml.Loader", "yaml.UnsafeLoader", "yaml.FullLoader", "yaml.CLoader", "ssl.CERT_NONE"}
_SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader"}
_WEAK = {"md5", "sha1"}


@dataclass(frozen=True)
class Found:
    line: int
    what: str


@dataclass
class Module:
    """What the names of one file stand for."""

    tree: ast.Module
    imported: dict[str, str] = field(default_factory=dict)
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    values: dict[str, list[ast.expr]] = field(default_factory=dict)

    @classmethod
    def of(cls, source: str) -> Module:
        module = cls(ast.parse(source))
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    module.imported[alias.asname or alias.name.partition(".")[0]] = (
                        alias.name if alias.asname else alias.name.partition(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    module.imported[alias.asname or alias.name] = f"{node.module or ''}.{alias.name}"
            elif isinstance(node, ast.ClassDef):
                module.classes[node.name] = node
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        module.values.setdefault(target.id, []).append(node.value)
        return module

    def name(self, node: ast.AST) -> str:
        """`numpy.load` for `np.load`; empty for what is no name."""
        if isinstance(node, ast.Attribute):
            owner = self.name(node.value)
            return f"{owner}.{node.attr}".removeprefix("builtins.") if owner else ""
        if isinstance(node, ast.Name):
            return self.imported.get(node.id, node.id).removeprefix("builtins.")
        return ""

    def is_safe_loader(self, node: ast.expr) -> bool:
        if isinstance(node, ast.IfExp):
            return self.is_safe_loader(node.body) and self.is_safe_loader(node.orelse)
        if self.name(node) in _SAFE_LOADERS:
            return True
        if isinstance(node, ast.Name) and node.id in self.classes:
            return any(self.is_safe_loader(base) for base in self.classes[node.id].bases)
        if isinstance(node, ast.Name) and node.id in self.values:
            return all(map(self.is_safe_loader, self.values[node.id]))
        return False


Rule = Callable[[Module, ast.AST], str]
"""What is wrong with a node; empty when nothing is."""


def _module(module: Module, node: ast.AST) -> str:
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    elif isinstance(node, ast.Call) and module.name(node.func) in ("importlib.import_module", "__import__"):
        names = [str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant)]
    bad = next((name for name in names if name in _MODULES or name.partition(".")[0] in _MODULES), "")
    return f"import of {bad}" if bad else ""


def _call(module: Module, node: ast.AST) -> str:
    if not isinstance(node, ast.Call):
        return ""
    name = module.name(node.func)
    if name in _BUILTINS:
        return f"{name}()"
    if name in _CALLS:
        return f"{name}: {_CALLS[name]}"
    if isinstance(node.func, ast.Attribute) and node.func.attr in ("extractall", "subprocess_shell"):
        return f".{node.func.attr}()"
    return ""


def _keyword(_: Module, node: ast.AST) -> str:
    if isinstance(node, ast.keyword):
        value: object = node.value.value if isinstance(node.value, ast.Constant) else "unknown"
        if (node.arg in ("shell", "allow_pickle") and value is not False) or (
            node.arg in ("verify", "check_hostname") and value is False
        ):
            return f"{node.arg}={value}"
    return ""


def _assignment(_: Module, node: ast.AST) -> str:
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and node.value.value is False:
        for target in node.targets:
            if isinstance(target, ast.Attribute) and target.attr == "check_hostname":
                return "check_hostname=False"
    return ""


def _yaml(module: Module, node: ast.AST) -> str:
    if not isinstance(node, ast.Call) or module.name(node.func) not in ("yaml.load", "yaml.load_all"):
        return ""
    loaders = [*node.args[1:2], *(keyword.value for keyword in node.keywords if keyword.arg == "Loader")]
    return "" if loaders and all(map(module.is_safe_loader, loaders)) else "yaml.load without a SafeLoader"


def _weak_hash(module: Module, node: ast.AST) -> str:
    if not isinstance(node, ast.Call) or any(keyword.arg == "usedforsecurity" for keyword in node.keywords):
        return ""
    owner, _, function = module.name(node.func).rpartition(".")
    first = str(node.args[0].value) if node.args and isinstance(node.args[0], ast.Constant) else ""
    if owner == "hashlib" and (function in _WEAK or (function == "new" and first.lower() in _WEAK)):
        return f"hashlib.{first if function == 'new' else function}"
    return ""


def _name(module: Module, node: ast.AST) -> str:
    return module.name(node) if isinstance(node, ast.Attribute | ast.Name) and module.name(node) in _NAMES else ""


RULES: tuple[Rule, ...] = (_module, _call, _keyword, _assignment, _yaml, _weak_hash, _name)


def find(source: str) -> Iterator[Found]:
    """What is forbidden in a file's source."""
    module = Module.of(source)
    for node in ast.walk(module.tree):
        for rule in RULES:
            if what := rule(module, node):
                yield Found(getattr(node, "lineno", 0), what)
