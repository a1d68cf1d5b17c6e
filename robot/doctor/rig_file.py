"""A copy of a rig's YAML with the first day's answers in it; comments and order of the original are kept."""

import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from configs.schema import CONFIGS, ConfigError, load_rig
from robot.doctor.first_day import Answers

_SECTION = re.compile(r"^commissioning:.*?(?=^\S|\Z)", re.MULTILINE | re.DOTALL)


def source_of(rig: str) -> Path:
    """The file behind ``--rig``."""
    return Path(rig) if "/" in rig or rig.endswith((".yaml", ".yml")) else CONFIGS / "rigs" / f"{rig}.yaml"


def with_answers(text: str, answers: Answers, *, settings: Mapping[str, float], measured_on: date) -> str:
    """The YAML ``text`` with a section ``commissioning`` (older answers are kept where there is no newer one) and with
    the ``settings``, keys that occur once in the file, set to their numbers."""
    for key, value in settings.items():
        text, count = re.subn(rf"(\b{re.escape(key)}:\s*)[-+.\d]+", rf"\g<1>{value:g}", text)
        if count != 1:
            raise ConfigError(
                f"expected the key {key!r} once in the rig's file, found it {count} times: set it by hand"
            )
    older: dict[str, Any] = (yaml.safe_load(text) or {}).get("commissioning") or {}
    newer = {
        name: {"value": answer.value, **({"unit": answer.unit} if answer.unit else {}), "measured_on": measured_on}
        for name, answer in answers.items()
    }
    lines = [f"\n  {_key(name)}: {_one_line(entry)}" for name, entry in {**older, **newer}.items()]
    return f"{_SECTION.sub('', text).rstrip()}\ncommissioning:{''.join(lines) or ' {}'}\n"


def _key(name: str) -> str:
    """In quotes where YAML would take the name for something else, as it does "on" and "no"."""
    return name if yaml.safe_load(name) == name else f'"{name}"'


def _one_line(entry: dict[str, Any]) -> str:
    return yaml.safe_dump(entry, sort_keys=False, allow_unicode=True, default_flow_style=True, width=1000).strip()


def write_copy(source: Path, target: Path, *, text: str) -> None:
    """Write ``text`` to ``target`` after making sure that it is a rig. Raises `ConfigError`."""
    if target.resolve() == source.resolve():
        raise ConfigError(f"{target} is the rig's own file: give --output another name, compare, then copy it over")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.stem}.new.yaml")
    draft.write_text(text, encoding="utf-8")
    try:
        load_rig(draft)
    except ConfigError:
        draft.unlink()
        raise
    draft.replace(target)
