"""How YAML is parsed: imported recipes are thousands of lines, which each command reads, and a plan may be long."""

from typing import Any

import yaml

#: A safe one: libyaml's where PyYAML has it, tens of times as fast.
FAST_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
