"""Links from code in the text to the reference.

A literal that names something public, such as `tfmp.convert(model)` anywhere
or `Policy` where only one thing is called so, becomes a link.
"""

from __future__ import annotations

import re
from typing import Any

import public
from docutils import nodes
from sphinx.util import logging

OF_KERAS = re.compile(r"Keras\W+$")  # "Keras' `Dense`" is not tfmp's


def link_literals(app: Any, doctree: nodes.document, page: str) -> None:
    """Turns literals of a page into links, for Sphinx."""
    objects = {
        name: entry
        for name, entry in app.env.get_domain("py").objects.items()
        if not entry.aliased  # the module that a class is written in
    }
    for literal in list(doctree.findall(nodes.literal)):
        inside = (nodes.reference, nodes.title, nodes.literal_block)
        name = public.find(literal.astext(), objects)
        if name is None or isinstance(literal.parent, inside):
            continue
        at = literal.parent.index(literal)
        if at and OF_KERAS.search(literal.parent[at - 1].astext()):
            continue
        target = objects[name]
        uri = app.builder.get_relative_uri(page, target.docname)
        link = nodes.reference(
            "", "", internal=True, refuri=f"{uri}#{target.node_id}"
        )
        literal.replace_self(link)
        link += literal


def check_reference(app: Any, env: Any) -> None:
    """Warns of each public name that has no place in the reference."""
    for name in public.missing(env.get_domain("py").objects):
        logging.getLogger(__name__).warning(
            "%s is public and not in docs/reference/", name
        )
