"""Print the planted faults, and which check catches each, as a table in Markdown: ``python -m teeth.catalogue``."""

from __future__ import annotations

from teeth.bite import caught
from teeth.planted import FAULTS


def main():
    found = caught(list(FAULTS))
    print("| fault | what is wrong | caught by |\n| --- | --- | --- |")
    for name, fault in FAULTS.items():
        print(f"| `{name}` | {fault.what} | `{found[name]['check']}` |")
    missed = [name for name in FAULTS if found[name]["check"] is None]
    print(f"\n{len(FAULTS) - len(missed)} of {len(FAULTS)} are caught.")


if __name__ == "__main__":
    main()
