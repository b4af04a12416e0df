"""Cases that an earlier import made from the same images, but under other names.

Left in place, they would be in other lists than the new cases: every validation slice would also be for training.
"""

from common.errors import InputError
from common.replacing import refuse_existing
from common.slices.case_files import read_case_record
from common.slices.cases import is_case, is_case_name


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
                if replace:
                    refuse_existing(case, replace, cases=True)
                found.append(case)
    if found and not replace:
        raise InputError(
            f"CASES: {root} already contains cases of the same images under other names (found {len(found)}, such as "
            f"{found[0].name}); pass --replace to remove them, or use another folder"
        )
    return found
