"""The model card: the keys of RSNA ATLAS' schema, what the user said, and nothing that nobody said."""

import json

import pytest

from common.replacing import staged
from coreml.card import SCHEMA, card_of, page_of, print_unsaid, publish_with_card

FACTS = {
    "network": "unet",
    "size": (200, 160),
    "classes": 1,
    "run": "20260102-030405_unet",
    "scores": {"dice": 0.91, "iou": 0.85, "loss": 0.1},
    "spacing": [0.7, 0.7],
    "window": [-160, 240],
    "threshold": 0.4,
}
TEXTS = dict.fromkeys(("author", "licence", "description", "input", "output"), "")
CARD = {
    "link": "https://example.org/model",
    "limitations": "adults only",
    "indications": "heart on CT",
    "training_data": "40 patients of one hospital",
    "modalities": ["Computed tomography (RID10321)"],
    "contact": "heart@example.org",
    "version": "1.0",
}
# Keys of https://atlas.rsna.org/schemas/2026-12/model.json that a card may have, by place.
ALLOWED = {
    "Model": {"Name", "Summary", "Link", "Indexing", "General metadata", "Model properties", "Imaging"}
    | {"Model performance", "Factors"},
    "General metadata": {"Authors", "Comments", "Contact", "Date", "Ethical review", "Funding", "License"}
    | {"Organizations", "References", "Version"},
    "Model properties": {"Architecture", "Availability", "Decision threshold", "Indications for use", "Input"}
    | {"Instructions", "Limitations", "Output", "Reproducibility", "Use", "User"},
    "Imaging": {"Modalities", "Procedures", "File format", "Resolution", "Comments", "Acquisition"},
}


def test_a_card_has_the_keys_of_the_schema_and_all_that_is_known():
    content = card_of(FACTS, TEXTS | {"author": "A. Author", "licence": "MIT"}, CARD, 31_054_145)
    assert set(content) == {"$schema", "Model"} and content["$schema"] == SCHEMA
    model = content["Model"]
    for place, allowed in ALLOWED.items():
        found = model if place == "Model" else model[place]
        assert set(found) <= allowed, place
    assert model["Name"] == "unet, 200x160, classes: 1" and model["Link"] == CARD["link"]
    assert model["General metadata"]["Authors"] == [{"Name": "A. Author"}]
    assert model["General metadata"]["License"] == {"Text": "MIT"}
    assert model["Model properties"]["Architecture"] == "unet, 31,054,145 parameters"
    assert model["Model properties"]["Decision threshold"].startswith("0.4 ")
    assert model["Imaging"] == {"Modalities": CARD["modalities"], "Resolution": "pixels of 0.7x0.7 mm"}
    (record,) = model["Model performance"]
    assert {result["Scalar metric"]: result["Value"] for result in record["Results"]} == {
        "Dice similarity coefficient": 0.91,
        "intersection over union": 0.85,
    }
    page = page_of(content)
    assert all(text in page for text in ("adults only", "heart on CT", "40 patients", "0.9100", "Not a medical device"))


def test_nothing_is_invented():
    facts = {"network": "unet", "size": (64, 64), "classes": 2, "class_names": ["liver", "tumor"]}
    content = card_of(facts, TEXTS, {}, 1000)
    model = content["Model"]
    assert model["Name"] == "unet, 64x64, classes: liver, tumor"
    assert model.keys() == {"Name", "Summary", "General metadata", "Model properties"}
    assert model["General metadata"].keys() == {"Date"}
    assert model["Model properties"].keys() == {"Architecture", "Input", "Output"}
    page = page_of(content)
    assert page.count("Not stated by the author.") == 3 and "Not measured." in page


@pytest.mark.parametrize("field", ["limitations", "training_data", "indications"])
def test_texts_are_as_long_as_the_schema_permits(field):
    model = card_of(FACTS, TEXTS, {field: "a|b\n" * 500}, 1)["Model"]
    texts = [*model["Model properties"].values(), *model["General metadata"].values()]
    assert max(len(text) for text in texts if isinstance(text, str)) == 512


def test_a_card_that_the_user_completed_is_kept(tmp_path, capsys):
    def write(card, replace):
        for name in ("a.mlmodel", "b.mlpackage"):
            with staged(tmp_path / name) as made:
                made.write_text("model")
                publish_with_card(made, tmp_path / name, card_of(FACTS, TEXTS, card, 1), replace)
        print_unsaid(card)

    write({}, False)
    assert "does not state link, limitations, indications, training_data" in capsys.readouterr().out
    assert json.loads((tmp_path / "b_card.json").read_text())["Model"]["Name"].startswith("unet")
    (tmp_path / "a_card.md").write_text("mine")
    write(CARD, False)
    assert (tmp_path / "a_card.md").read_text() == "mine"
    out = capsys.readouterr().out
    assert out.count("kept ") == 4 and "does not state" not in out
    write(CARD, True)
    assert "adults only" in (tmp_path / "a_card.md").read_text()
