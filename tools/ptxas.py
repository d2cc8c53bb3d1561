"""What nvcc and cuobjdump say of compiled kernels, as numbers, and the names of kernels."""

import re
import subprocess
from collections import Counter

COUNTED = ("LDL", "STL", "FFMA", "HMMA", "HGMMA")  # of SASS, by the opcode before its first dot

ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
PROPERTIES = re.compile(r"Function properties for (\w+)")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(.*)")
LOSS = re.compile(r"Potential Performance Loss: (.*) for the function '(\w+)'")
SASS_FUNCTION = re.compile(r"^\s*Function : (\w+)")
SASS_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)")
ANONYMOUS = re.compile(r"(?:\(anonymous namespace\)|_GLOBAL__N__[0-9a-zA-Z_]+?)::")


def resources(text: str) -> list[dict]:
    """The kernels in the output of `nvcc -Xptxas -v`, in its order.

    Returns:
        Of each {"mangled", "arch", "registers", "stack", "spill_stores", "spill_loads", "static_smem",
        "barriers"}, sizes in bytes. Stack and spills of device functions that were not inlined count towards
        the kernel after which they stand.
    """
    found: list[dict] = []
    for line in text.splitlines():
        if match := ENTRY.search(line):
            frame = {"stack": 0, "spill_stores": 0, "spill_loads": 0}
            found.append({"mangled": match[1], "arch": match[2], "registers": 0, **frame})
            found[-1] |= {"static_smem": 0, "barriers": 0}
        elif not found or PROPERTIES.search(line):
            continue
        elif match := FRAME.search(line):
            for key, value in zip(("stack", "spill_stores", "spill_loads"), match.groups(), strict=True):
                found[-1][key] += int(value)
        elif match := USED.search(line):
            found[-1]["registers"] = int(match[1])
            for key, unit in (("barriers", r"used (\d+) barriers"), ("static_smem", r"(\d+) bytes smem")):
                if amount := re.search(unit, match[2]):
                    found[-1][key] = int(amount[1])
    return found


def losses(text: str) -> list[tuple[str, str]]:
    """(mangled name, reason) of each kernel whose warpgroup products ptxas makes one after the other."""
    return [(match[2], match[1]) for match in LOSS.finditer(text)]


def instructions(text: str) -> dict[str, dict[str, int]]:
    """Mangled name -> how many of the COUNTED instructions, from the output of `cuobjdump -sass`."""
    found: dict[str, Counter] = {}
    current = Counter()
    for line in text.splitlines():
        if match := SASS_FUNCTION.search(line):
            current = found.setdefault(match[1], Counter())
        elif (match := SASS_INSTRUCTION.search(line)) and match[1] in COUNTED:
            current[match[1]] += 1
    return {name: {opcode: counts[opcode] for opcode in COUNTED} for name, counts in found.items()}


def demangle(names: list[str], tool: str = "c++filt") -> list[str]:
    """Names as the source has them; as they came where there is no c++filt."""
    try:
        done = subprocess.run([tool], input="\n".join(names), text=True, capture_output=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return names
    return done.stdout.splitlines()


def short_name(demangled: str) -> str:
    """Without return type, parameters and anonymous namespaces, whose names hold a hash of the file's path.

    "void a::(anonymous namespace)::refine<8, 256>(float const*)" -> "a::refine<8, 256>"
    """
    name = ANONYMOUS.sub("", demangled).replace("> >", ">>")
    depth, start = 0, 0
    for i, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if depth == 0 and letter == " ":
            start = i + 1
        if depth == 0 and letter == "(":
            return name[start:i]
    return name
