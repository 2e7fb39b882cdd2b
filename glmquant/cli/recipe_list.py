"""The packaged recipes as a list with what was measured, and one of them in full."""

import json
from dataclasses import asdict
from typing import Any

import glmquant as gq
from glmquant.inert import inert_line
from glmquant.recipe.packaged import description, measured

HEAD = ("recipe", "size", "perplexity / FP16 (95 %)", "mean KL", "seconds")


def as_text() -> str:
    """A line of figures and one of description for each recipe."""
    packaged, (model, results) = gq.packaged_recipes(), measured()
    rows = {"": HEAD}
    for name in packaged:
        found = results.get(name)
        figures = (
            (found.size, found.perplexity_ratio, found.mean_kl, found.seconds)
            if found
            else ("not measured", "", "", "")
        )
        rows[name] = (name, *figures)
    widths = [max(map(len, column)) for column in zip(*rows.values(), strict=True)]
    lines = []
    for name, row in rows.items():
        lines.append("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
        if name:
            lines.append(f"    {description(packaged[name])}")
    lines.append(f"measured on {model}; size: bits a weight, or the bundle; seconds: to quantize, on two cores")
    return "\n".join(map(inert_line, lines))


def as_values() -> list[dict[str, Any]]:
    """The same for JSON."""
    model, results = measured()
    listed = []
    for name, path in gq.packaged_recipes().items():
        found = results.get(name)
        figures = None if found is None else {"model": model, **asdict(found)}
        listed.append({"name": name, "description": description(path), "measured": figures})
    return listed


def in_full(name: str, *, as_json: bool) -> str:
    """Every key of a recipe, those that it leaves out at their defaults, as YAML that is such a recipe itself."""
    import yaml

    from glmquant.recipe.load import load_recipe

    values = load_recipe(name).model_dump(mode="json")
    if as_json:
        return json.dumps(values, ensure_ascii=False, indent=1) + "\n"
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120))
