"""`list_layers`: the known layer types, and the forks that define them."""

from __future__ import annotations

import difflib
import inspect

__all__ = ["list_layers"]


def list_layers(*types: str) -> str:
    """Return what is known of layer types: formula, reference and own fields; without types, a list of all.

    types: as prototxt spells them, or of a Python layer its module and class. Raises InputError for an unknown one.
    """
    from caffestat.layers import layer_dialects, layer_types, reference_of

    if types:
        return "\n\n".join(_page(name) for name in types)
    rows = [(name, cls.dialect or "-", reference_of(cls)) for name in layer_types() for cls in layer_dialects(name)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{name:<{widths[0]}}  {dialect:<{widths[1]}}  {where}".rstrip() for name, dialect, where in rows)


def _page(name: str) -> str:
    from caffestat.errors import InputError
    from caffestat.layers import layer_dialects, layer_types

    classes = layer_dialects(name)
    if not classes:
        types = {known.lower(): known for known in layer_types()}
        close = difflib.get_close_matches(name.lower(), types, n=1, cutoff=0.8)
        hint = f"; did you mean {types[close[0]]!r}?" if close else ""
        raise InputError(f"unknown layer type {name!r}{hint}; `caffestat layers` lists all")
    return "\n\n".join(
        f"{name}{f' of dialect {cls.dialect}' if cls.dialect else ''}\n\n{inspect.cleandoc(cls.__doc__ or '')}"
        for cls in classes
    )
