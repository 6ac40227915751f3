"""`jq -r .name`, as far as the pages use it, for machines that do not have it."""

import json
import sys

raw, path = sys.argv[1:]
assert raw == "-r"
value = json.load(sys.stdin)
for name in path.removeprefix(".").split("."):
    value = value[name]
print(value)
