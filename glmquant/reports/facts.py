"""What a report is about, and how it was made, as pairs of a name and its value in words."""

from glmquant.core.units import duration, size
from glmquant.evaluation.results import AccuracyReport
from glmquant.reports.words import size_ratio
from glmquant.store.circumstances import BundleSpeed, Circumstances

Facts = list[tuple[str, str]]
SHORT = 16
"""Characters of a hash that are shown; ``report.json`` has all."""


def subject_facts(report: AccuracyReport) -> Facts:
    """Model, recipe, changes, sizes, versions, hashes: the same each time."""
    setting, subject = report.setting, report.setting.subject
    facts = [
        ("candidate", f"{setting.candidate.name}, {size(setting.candidate.num_bytes)}"),
        ("baseline", f"{setting.baseline.name}, {size(setting.baseline.num_bytes)}, computed in float32"),
        ("size", f"{size_ratio(setting)} of the baseline"),
    ]
    if subject is not None:
        commit = "" if subject.revision is None else f", commit {subject.revision}"
        facts.insert(0, ("model", f"{subject.source}{commit}"))
        facts.append(("recipe", " · ".join(filter(None, (subject.recipe, setting.recipe))) or "none"))
        if subject.changes:
            facts.append(("changed in it" if subject.recipe else "its keys", "; ".join(subject.changes)))
    elif setting.recipe is not None:
        facts.append(("recipe", setting.recipe))
    if setting.accuracy_level is not None:
        facts.append(("MatMulNBits accuracy level", str(setting.accuracy_level)))
    facts.append(("versions", ", ".join(f"{each.name} {each.version}" for each in setting.versions)))
    if subject is not None:
        hashes = {"weights of the model": subject.fingerprint, "calibration": subject.calibration, **subject.files}
        known = (f"{name} {digest[:SHORT]}" for name, digest in hashes.items() if digest)
        facts.append(("hashes", ", ".join(known)))
    return facts


def made_facts(made: Circumstances) -> Facts:
    """Date, machine, command, time, memory, and the bundle's speed: others each time."""
    facts = [("date", made.date), ("machine", ", ".join(_machine(made.machine))), ("command", made.command)]
    if made.seconds:
        facts.append(("time", ", ".join(f"{step} {duration(each)}" for step, each in made.seconds.items())))
    facts.append(("peak memory of the run", size(made.peak_bytes)))
    if made.speed is not None:
        facts += [("the bundle's speed", speed_words(made.speed)), ("its peak memory", size(made.speed.peak_bytes))]
    return facts


def speed_words(speed: BundleSpeed) -> str:
    """Tokens a second, of reading and of generating."""
    read = f"reads {_rate(speed.prompt_tokens, speed.prompt_seconds)} tokens a second"
    written = f"generates {_rate(speed.new_tokens, speed.new_seconds)}, " if speed.new_tokens else ""
    threads = "1 core" if speed.threads == 1 else f"{speed.threads} cores"
    return f"{written}{read} ({speed.prompt_tokens} at once), one sequence on {threads}"


def tokens_a_second(speed: BundleSpeed) -> str:
    """Of generating; of a classifier, of reading."""
    if speed.new_tokens:
        return _rate(speed.new_tokens, speed.new_seconds)
    return _rate(speed.prompt_tokens, speed.prompt_seconds)


def _rate(tokens: int, seconds: float) -> str:
    rate = tokens / max(seconds, 1e-9)
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.2g}"


def _machine(machine: dict[str, str]) -> list[str]:
    units = {"cores": "{} cores", "memory": "{} of memory", "python": "Python {}"}
    return [units.get(name, "{}").format(value) for name, value in machine.items()]
