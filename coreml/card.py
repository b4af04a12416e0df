"""The model card of an exported model: as JSON in the schema of RSNA ATLAS, and as a page to read.

Schema: https://atlas.rsna.org/schemas/2026-12/model.json. What only the user can know (limitations, training data, a
link) comes from the setting CARD and is left out if it is not given.
"""

import datetime
import os

from common.files import whole_file, write_json
from common.replacing import publish

SCHEMA = "https://atlas.rsna.org/schemas/2026-12/model.json"
LONGEST = 512  # characters of a text in the schema
ASKED = {  # key of CARD: what it is
    "link": "address where the model can be found (ATLAS requires one)",
    "limitations": "what it must not be used for, and whom its data do not represent",
    "indications": "disease, patients and place of use",
    "training_data": "patients, scanners and sites of the training data, and who outlined them",
    "modalities": "imaging modalities, in the words of ATLAS",
    "contact": "address or email",
    "version": "version of the model",
}


def publish_with_card(made, model, content, replace):
    """Put a model in its place, with `<model>_card.json` and `<model>_card.md` next to it, in one step.

    Cards that exist are kept without `replace`, since users complete them.

    Args:
        made: Path of `common.replacing.staged`.
        model: final Path of the model.
        content: result of `card_of`; None: the model alone.
        replace: whether to overwrite cards that exist.
    """
    done = []
    for ending, write in ((".json", write_json), (".md", _write_page)) if content else ():
        name = f"{model.stem}_card{ending}"
        if os.path.lexists(model.with_name(name)) and not replace:
            done.append(f"kept {model.with_name(name)}; --replace would overwrite it")
        else:
            write(made.with_name(name), content)
            done.append(f"wrote {model.with_name(name)}")
    publish(made, model)
    for line in done:
        print(line)


def print_unsaid(card):
    """Print what a card lacks; `card` as for `card_of`."""
    if unsaid := [key for key in ASKED if not card.get(key)]:
        print(f"the model card does not state {', '.join(unsaid)}; add them to CARD")


def card_of(facts, texts, card, parameters):
    """The card as a dict.

    Args:
        facts: metadata of the model, see `coreml.metadata.recorded_facts`; with "size" (height,
            width; of volumes slices first), "classes", "class_names" and "threshold".
        texts: dict of author, licence, description, input and output, as text.
        card: setting CARD: dict with keys of ASKED.
        parameters: number of parameters of the network.
    """
    size = "x".join(map(str, facts["size"]))
    classes = ", ".join(facts.get("class_names") or []) or f"{facts['classes']}"
    name = texts["description"] or f"{facts['network']}, {size}, classes: {classes}"
    threshold = facts.get("threshold")
    general = {
        "Authors": texts["author"] and [{"Name": texts["author"][:128]}],
        "Comments": card.get("training_data") and f"Training data: {card['training_data']}",
        "Contact": card.get("contact"),
        "Date": {"Created": datetime.date.today().isoformat()},
        "License": texts["licence"] and {"Text": texts["licence"]},
        "Version": card.get("version"),
    }
    properties = {
        "Architecture": f"{facts['network']}, {parameters:,} parameters",
        "Decision threshold": threshold and f"{threshold:g} on the probability of the mask",
        "Indications for use": card.get("indications"),
        "Input": {"Description": texts["input"] or _input_in_words(facts)},
        "Limitations": card.get("limitations"),
        "Output": {
            "Description": texts["output"] or f"mask of {size} {_elements(facts)}, classes: {classes}",
            "Type": "Prediction",
        },
        "Reproducibility": facts.get("run") and f"settings, versions and code are in the run folder {facts['run']}",
    }
    model = {
        "Name": name[:256],
        "Summary": name,
        "Link": card.get("link"),
        "General metadata": _given(general),
        "Model properties": _given(properties),
        "Imaging": _given({"Modalities": card.get("modalities"), "Resolution": _resolution(facts)}),
        "Model performance": _performance(facts),
    }
    return {"$schema": SCHEMA, "Model": _given(model)}


def _given(values):
    """A dict without empty values, with texts of the permitted length."""
    return {key: value[:LONGEST] if isinstance(value, str) else value for key, value in values.items() if value}


def _elements(facts):
    return "voxels" if len(facts["size"]) == 3 else "pixels"


def _input_in_words(facts):
    if len(facts["size"]) == 3:
        return f"volume of {'x'.join(map(str, facts['size']))} voxels, standardized as in training"
    window = facts.get("window")
    levels = f"; black is {window[0]:g} and white {window[1]:g} in the values of the scan" if window else ""
    return f"gray image of {facts['size'][0]}x{facts['size'][1]} pixels{levels}"


def _resolution(facts):
    spacing = facts.get("spacing")
    known = spacing and len(spacing) == len(facts["size"]) and all(spacing)
    return f"{_elements(facts)} of {'x'.join(f'{mm:.3g}' for mm in spacing)} mm" if known else ""


def _performance(facts):
    names = {"dice": "Dice similarity coefficient", "iou": "intersection over union"}
    scores = facts.get("scores") or {}
    results = [
        {"Index test": "segmentation", "Scalar metric": metric, "Value": scores[key]}
        for key, metric in names.items()
        if key in scores
    ]
    about = "validation set of the training run, which also chose the epoch; means over images with a mask"
    return results and [{"Evaluation dataset": {"Description": about}, "Results": results, "Provenance": "Claimed"}]


def _write_page(file, content):
    with whole_file(file) as unfinished:
        unfinished.write_text(page_of(content), encoding="utf-8", errors="backslashreplace")


def page_of(content):
    """The card as Markdown text; `content` as returned by `card_of`."""
    model = content["Model"]
    general, properties = model["General metadata"], model["Model properties"]
    lines = [f"# {model['Name']}", "", "Not a medical device: for research only.", ""]
    rows = {
        "Link": model.get("Link"),
        "Author": general.get("Authors", [{}])[0].get("Name"),
        "Contact": general.get("Contact"),
        "License": general.get("License", {}).get("Text"),
        "Version": general.get("Version"),
        "Created": general["Date"]["Created"],
        "Architecture": properties["Architecture"],
        "Input": properties["Input"]["Description"],
        "Output": properties["Output"]["Description"],
        "Resolution": model.get("Imaging", {}).get("Resolution"),
        "Modalities": ", ".join(model.get("Imaging", {}).get("Modalities", [])),
        "Decision threshold": properties.get("Decision threshold"),
        "Reproducibility": properties.get("Reproducibility"),
    }
    lines += ["| | |", "| --- | --- |", *(f"| {name} | {_cell(value)} |" for name, value in rows.items() if value), ""]
    sections = {
        "Indications for use": properties.get("Indications for use"),
        "Limitations": properties.get("Limitations"),
        "Data": general.get("Comments"),
    }
    for title, text in sections.items():
        lines += [f"## {title}", "", text or "Not stated by the author.", ""]
    lines += ["## Performance", ""]
    for record in model.get("Model performance") or []:
        lines += [f"On the {record['Evaluation dataset']['Description']}:", ""]
        lines += [f"- {result['Scalar metric']}: {result['Value']:.4f}" for result in record["Results"]] + [""]
    if not model.get("Model performance"):
        lines += ["Not measured.", ""]
    return "\n".join(lines)


def _cell(value):
    return str(value).replace("|", "\\|").replace("\n", " ")
