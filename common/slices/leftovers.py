"""Cases that an earlier import made from the same images, but under other names.

Left in place, they would be in other lists than the new cases: every validation slice would also be for training.
"""

from common.errors import InputError
from common.slices.cases import RECORD, is_case, is_case_name, read_case_record


def find_earlier_cases(sources, script, image_of, replace):
    """Find cases of an earlier import in the folder of the new ones.

    Args:
        sources: as `common.slices.cases.import_cases`.
        script: `source` in the records of the earlier import.
        image_of: function of a source to `image` in `CaseRecord.slices`.
        replace: whether such cases are to be removed.

    Returns:
        list of Path.

    Raises:
        InputError: if there are any and `replace` is not set, or one contains more than the import and step 1 made.
    """
    root, new = sources[0][0].parent, {case for case, _ in sources}
    images = {image_of(source) for _, source in sources}
    found = []
    for case in sorted(root.iterdir()) if root.is_dir() else []:
        if case not in new and is_case_name(case.name) and is_case(case):
            record = read_case_record(case)
            slices = record.get("slices", {})
            if record.get("source") == script and images & {entry.get("image") for entry in slices.values()}:
                _refuse_additions(case, slices)
                found.append(case)
    if found and not replace:
        raise InputError(
            f"CASES: {root} already contains cases of the same images under other names (found {len(found)}, such as "
            f"{found[0].name}); pass --replace to remove them, or use another folder"
        )
    return found


def _refuse_additions(case, slices):
    made = {"x", "y", RECORD, "augmented.json"}
    files = {f"{name}.png" for name in slices}
    added = [path for path in case.iterdir() if path.name not in made and not path.name.startswith(("x_", "y_O", "."))]
    added += [path for side in ("x", "y") for path in (case / side).iterdir() if path.name not in files]
    if added:
        raise InputError(f"{added[0]}: not made by the import of {case}; move it, or use another folder for CASES")
