"""The pages of the API reference, written before each build, and the links between what they document.

Everything is documented once: in the front door, :mod:`dmmc`, in groups that follow its docstring; or in a package that
gives it out by its ``__all__``, as :mod:`dmmc.diagnostics` does; or else in the module that defines it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import pydoc
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.environment import BuildEnvironment
from sphinx.ext.autodoc.mock import mock
from sphinx.ext.napoleon import Config, GoogleDocstring

import dmmc

FOLDER = Path("docs/reference")
OTHERS = "Errors and the version"
"""Title of the group of what stands in no list of the docstring."""
NOT_INHERITED = "object, BaseException, Module, Protocol, Generic"
"""Classes whose members are not shown among those of the classes that derive from them."""


def modules() -> list[str]:
    """Every module of the package but the front door and those that cannot be imported without running."""
    found = (module.name for module in pkgutil.walk_packages(dmmc.__path__, "dmmc."))
    return sorted(name for name in found if not name.endswith("__main__"))


def groups() -> dict[str, list[str]]:
    """The public names under the headings of the docstring of the front door."""
    made = {}
    for title, listed in re.findall(r"^([A-Z][^\n]*):\n\n((?:(?:\* |  )[^\n]*\n)+)", dmmc.__doc__ or "", re.M):
        made[title] = [name for name in re.findall(r":\w+:`(\w+)`", listed) if name in dmmc.__all__]
    rest = sorted(set(dmmc.__all__) - {name for names in made.values() for name in names})
    return {**made, OTHERS: rest}


def homes() -> dict[str, str]:
    """The full name of everything that is documented elsewhere than in its module, with the name it has there.

    Constants stay where they are, and so do functions that are named as a module beside them.
    """
    made: dict[str, str] = {}
    for package in ("dmmc", *modules()):
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if moves(thing) and thing.__module__ != package and f"{package}.{name}" not in modules():
                made.setdefault(f"{thing.__module__}.{name}", f"{package}.{name}")
    return made


def moves(thing: object) -> bool:
    return inspect.isclass(thing) or inspect.isfunction(thing)


def heading(title: str, underline: str = "=") -> str:
    return f"{title}\n{underline * len(title)}\n"


def toctree(*pages: str) -> str:
    return "\n".join([".. toctree::", "   :hidden:", "", *(f"   {page}" for page in pages), ""]) if pages else ""


def entry(name: str) -> str:
    """The directive that documents one name."""
    module, _, attribute = name.rpartition(".")
    thing = getattr(importlib.import_module(module), attribute)
    if inspect.ismodule(thing):
        return f"* :mod:`{name}`\n"
    if inspect.isclass(thing):
        derived = any(base.__module__.startswith("dmmc.") for base in thing.__bases__)
        bases = "   :show-inheritance:\n" if derived else ""
        return f".. autoclass:: {name}\n   :members:\n   :inherited-members: {NOT_INHERITED}\n{bases}"
    return f".. {'autofunction' if callable(thing) else 'autodata'}:: {name}\n"


def slug(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def front_door() -> Iterator[tuple[str, str]]:
    """Names and texts of the pages of the front door."""
    made = groups()
    yield (
        "dmmc",
        "\n".join([heading("The front door: dmmc"), ".. automodule:: dmmc\n", toctree(*map(slug, made))]),
    )
    for title, names in made.items():
        yield slug(title), "\n".join([heading(title), *(entry(f"dmmc.{name}") for name in names)])


def page(package: str, elsewhere: dict[str, str]) -> str:
    """The page of one package, with a section for each of its modules."""
    below = [name for name in modules() if name.rpartition(".")[0] == package]
    lines = [heading(package), *section(package, elsewhere)]
    for name in below:
        if not is_package(name):
            lines += [heading(name, "-"), *section(name, elsewhere)]
    return "\n".join([*lines, toctree(*filter(is_package, below))])


def section(name: str, elsewhere: dict[str, str]) -> list[str]:
    """What the page of its package says about a module, or about itself."""
    module = importlib.import_module(name)
    moved = {full.rpartition(".")[2]: to for full, to in elsewhere.items() if full.rpartition(".")[0] == name}
    lines = [f".. automodule:: {name}"]
    if hasattr(module, "__all__"):
        return [*lines, "", *(given_out(module, each, elsewhere) for each in module.__all__)]
    lines.append("   :members:")
    if moved:
        lines.append(f"   :exclude-members: {', '.join(moved)}")
        links = (f":{role(module, each)}:`~{moved[each]}`" for each in sorted(moved))
        lines += ["", f"Documented elsewhere: {', '.join(links)}."]
    return [*lines, ""]


def given_out(package: ModuleType, name: str, elsewhere: dict[str, str]) -> str:
    """What the page of a package says about a name that it gives out: everything, or where everything is said."""
    thing = getattr(package, name)
    here = f"{package.__name__}.{name}"
    if moves(thing):
        home = f"{thing.__module__}.{name}"
        there = elsewhere.get(home, home)
        return entry(here) if there == here else f"* :{role(package, name)}:`{there}`\n"
    return f"* :data:`{name}`\n"


def is_package(name: str) -> bool:
    return hasattr(importlib.import_module(name), "__path__")


def role(module: ModuleType, name: str) -> str:
    thing = getattr(module, name)
    return "class" if inspect.isclass(thing) else "func" if callable(thing) else "data"


def write_pages(app: Sphinx) -> None:
    """Write what has changed, and remove what is no longer there."""
    folder = Path(app.srcdir) / FOLDER
    folder.mkdir(exist_ok=True)
    with mock(app.config.autodoc_mock_imports):
        elsewhere = homes()
        texts = {**dict(front_door()), **{name: page(name, elsewhere) for name in filter(is_package, modules())}}
    app.env.dmmc_homes = elsewhere  # type: ignore[attr-defined]
    for old in folder.glob("*.rst"):
        if old.stem not in texts:
            old.unlink()
    for name, text in texts.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


class Docstring(GoogleDocstring):
    """Docstrings whose types stand in the annotations, so that a colon in a text is just a colon."""

    def _consume_fields(
        self, parse_type: bool = True, prefer_type: bool = False, multiple: bool = True
    ) -> list[tuple[str, str, list[str]]]:
        return super()._consume_fields(parse_type, prefer_type, multiple)

    def _consume_returns_section(self, preprocess_types: bool = False) -> list[tuple[str, str, list[str]]]:
        return [("", "", self._dedent(self._consume_to_next_section()))]


def read_docstring(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Turn a docstring into reStructuredText."""
    kind = "function" if what in ("attribute", "data", "property") else what
    lines[:] = Docstring(
        lines, Config(napoleon_use_ivar=True, napoleon_attr_annotations=False), app, kind, name, thing, options
    ).lines()


ARRAY = re.compile(r"~?numpy\.ndarray\[tuple\[~?(?:typing\.)?Any, \.\.\.\], ~?numpy\.dtype\[([^]]*)\]\]")


def shorten(app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str, returns: str) -> Any:
    """Write the types of arrays as the source does, and ``...`` for defaults that are not written in Python."""
    short = (text and ARRAY.sub(r"NDArray[\1]", text) for text in (signature, returns))
    return tuple(text and re.sub(r"=\s*<[^<>]*>", "=...", text) for text in short)


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.Element) -> Any:
    """Find what Sphinx does not: what is documented elsewhere than in its module, or far from its neighbours.

    What exists and is not documented is shown without a link.
    """
    if node.get("refdomain") != "py":
        return None
    target: str = node["reftarget"]
    context = node.get("py:module") or "dmmc"
    objects = {name: place for name, place in env.domains.python_domain.objects.items() if not place.aliased}
    for full, to in env.dmmc_homes.items():  # type: ignore[attr-defined]
        for name in (target, f"{context}.{target}"):
            found = to + name.removeprefix(full)
            if (name == full or name.startswith(f"{full}.")) and found in objects:
                return link(app, node, text, found)
    for ending in (target, target.rpartition(".")[0]):  # or else the class of an attribute
        found_here = [name for name in objects if ending and name.endswith(f".{ending}")]
        nearest = [name for name in found_here if name.startswith(f"{context}.")]
        for names in (found_here, nearest):
            if len(names) == 1:
                return link(app, node, text, names[0])
    return text if needs_no_link(target, context) else None


def needs_no_link(target: str, context: str) -> bool:
    """Whether a name is of another package, private, a variable of types, or a constant that explains itself."""
    thing, beside = found(target), found(f"{context}.{target}")
    if not target.startswith("dmmc."):
        return thing is not None or (beside is not None and not moves(beside))
    return isinstance(thing, TypeVar) or target.rpartition(".")[2].startswith("_")


def found(name: str) -> Any:
    """What has this dotted name; None if there is nothing, or it needs a package that is not installed."""
    try:
        return pydoc.locate(name)
    except (ImportError, pydoc.ErrorDuringImport):
        return None


def link(app: Sphinx, node: pending_xref, text: nodes.Element, name: str) -> nodes.reference:
    place = app.env.domains.python_domain.objects[name]
    made = nodes.reference("", "", text, internal=True, reftitle=name)
    made["refuri"] = f"{app.builder.get_relative_uri(node['refdoc'], place.docname)}#{place.node_id}"
    return made


def mend_source(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Take links that lead nowhere out of the pages with the source.

    Those back to the reference assume that all of a module is documented on one page, and the list of modules has one
    that has no page.
    """
    if page.startswith("_modules/") and "body" in context:
        nowhere = r'<a class="viewcode-back"[^>]*>.*?</a>|<li><a href="builtins.html">.*?</li>'
        context["body"] = re.sub(nowhere, "", context["body"])


def setup(app: Sphinx) -> dict[str, bool]:
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("autodoc-process-signature", shorten)
    app.connect("missing-reference", resolve)
    app.connect("html-page-context", mend_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
