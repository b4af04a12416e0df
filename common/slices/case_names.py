"""Which case an imported image belongs to."""

from common.errors import InputError
from common.files import natural_key
from common.slices.cases import as_case_name
from common.slices.matching import patients_in
from common.words import number_of


def name_cases(keys, case_from):
    """Assign images to cases, in natural order; print what file names tell.

    Args:
        keys: (subfolder, id) of each image.
        case_from: setting CASE_FROM.

    Returns:
        dict of key to case name.

    Raises:
        InputError: if two subfolders would become one case.
    """
    of_image, cases, seen = case_from == "image", {}, {}
    patients = patients_in([name for folder, name in keys if not folder])
    if patients and of_image:
        print(f"note: {next(iter(patients))} looks like a slice of a patient, of whom no two lists may have slices")
    elif patients:
        print(f"{number_of(len(set(patients.values())), 'case')} from file names such as {next(iter(patients))}")
    for folder, name in keys:
        last = name if of_image else "" if folder else patients.get(name, "")
        parts = [part for part in (folder, last) if part]
        case = cases[folder, name] = as_case_name("_".join(parts) or "case01")
        if seen.setdefault(case, folder) != folder:
            raise InputError(f"IMAGES: subfolders {seen[case]} and {folder} would both become {case}; rename one")
    return dict(sorted(cases.items(), key=lambda item: (natural_key(item[1]), natural_key(item[0][1]))))
