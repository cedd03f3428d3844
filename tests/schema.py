"""What must the JSON of every command look like?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

ROOT = Path(__file__).resolve().parent.parent
SCHEMA: dict[str, Any] = json.loads((ROOT / "common" / "data" / "schema" / "dlwhy-1.schema.json").read_bytes())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def validator_of(definition: str) -> jsonschema.Draft202012Validator:
    """Return what checks one of the schema's definitions."""
    return jsonschema.Draft202012Validator({**SCHEMA["$defs"][definition], "$defs": SCHEMA["$defs"]})
