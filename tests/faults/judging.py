"""What is wrong with how a script ended."""

import re
from pathlib import Path

NOISE = re.compile(  # lines of libraries, which do not go through Python
    r"^\s*$|WARNING: All log messages before absl|[IWE]0000 "
)


def problems_of(kind, answer, sound):
    """What is wrong with the answer of a trial, as text; "" if nothing.

    Args:
        kind: with the attributes script and intact.
        answer: result of `faults.forking.trial`.
        sound: the same for the good files.
    """
    status, err = answer["status"], answer["err"]
    if status in ("hang", "crash", "mistake"):
        return f"{status}: {err[-600:]}"
    found = []
    if "Traceback" in err:
        found.append(f"traceback: {' | '.join(err.strip().splitlines()[-6:])[-600:]}")
    elif status not in (0, 1, 2):
        found.append(f"exit status {status}")
    elif status:
        found += grammar(Path(kind.script).name, err)
    elif kind.intact and answer["wrote"] != sound["wrote"]:
        found.append("accepted, but wrote something else than for the good file")
    elif lines := [line for line in err.splitlines() if not NOISE.match(line)]:
        found.append(f"status 0, but standard error has {lines[:3]}")
    if answer.get("changed"):
        found.append(f"changed {answer['changed'][:5]}")
    return "; ".join(found)


def grammar(script, err):
    """What is wrong with an error message: `script: error: <file or setting>: <problem>`, and perhaps a list below."""
    lines = [line for line in err.splitlines() if not NOISE.match(line)]
    if not lines:
        return ["no message"]
    first, *others = lines
    if not first.startswith(f"{script}: error: "):
        return [f"the first line is {first[:300]!r}"]
    text = first.removeprefix(f"{script}: error: ")
    strange = [line for line in others if not line.startswith(("  ", "Imported the others"))]
    problems = [f"further lines {strange[:3]}"] if strange else []
    if ": " not in text and not text.endswith(":"):
        problems.append(f"no object: {text[:300]!r}")
    if len(text) > 1500:
        problems.append(f"{len(text)} characters")
    return problems
