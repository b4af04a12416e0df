"""CVAT for images 1.1, in the form of its documentation (https://docs.cvat.ai/docs/other/xml_format)."""

import zipfile

import numpy as np
import pytest

from common.annotations.reading import read_file
from common.annotations.shapes import draw
from common.errors import InputError

SIZE = (40, 60)
ROWS, COLUMNS = np.mgrid[:40, :60]
DISC = (COLUMNS - 40) ** 2 / 100 + (ROWS - 20) ** 2 / 64 < 1
INSIDE = DISC[13:28, 31:50]
COUNTS = np.diff(np.flatnonzero(np.diff(np.concatenate([[2], INSIDE.ravel(), [2]])))).tolist()
RUNS = ", ".join(map(str, COUNTS if not INSIDE[0, 0] else [0, *COUNTS]))
SHAPES = f"""
    <polygon label="liver" source="manual" points="5.50,4.25;25.00,6.00;22.50,30.75;8.25,28.00" z_order="0">
      <attribute name="sure">yes</attribute>
    </polygon>
    <mask label="tumor" source="semi-auto" rle="{RUNS}" left="31" top="13" width="19" height="15" z_order="2">
    </mask>
    <box label="cyst" source="manual" occluded="0" xtl="2.00" ytl="36.00" xbr="9.00" ybr="39.00" z_order="0">
    </box>
    <box label="plate" source="manual" occluded="0" xtl="10.00" ytl="20.00" xbr="30.00" ybr="24.00" rotation="90.0">
    </box>
    <ellipse label="node" source="manual" occluded="0" cx="50.00" cy="8.00" rx="5.00" ry="5.00" z_order="1">
    </ellipse>
    <polyline label="needle" source="manual" occluded="0" points="1.00,1.00;30.00,35.00" z_order="0">
    </polyline>
    <points label="needle" source="manual" occluded="0" points="1.00,1.00" z_order="0">
    </points>
    <tag label="good" source="manual">
    </tag>"""


def document(shapes=SHAPES, image='id="0" name="p1/s1.png" width="60" height="40"'):
    return f"""<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <name>livers</name>
      <labels>
        <label>
          <name>liver</name>
        </label>
      </labels>
    </task>
  </meta>
  <image {image}>{shapes}
  </image>
  <image id="1" name="p1/s2.png" width="60" height="40">
  </image>
</annotations>
"""


def test_shapes(tmp_path):
    (tmp_path / "a.xml").write_text(document())
    first, second = read_file(tmp_path / "a.xml")
    assert (first.image, first.size, dict(first.ignored)) == ("p1/s1.png", SIZE, {"polyline": 1, "points": 1})
    assert (second.image, second.shapes) == ("p1/s2.png", [])
    masks = {name: draw(first.shapes, {name: 1}, SIZE)[0] > 0 for name in ("tumor", "cyst", "plate", "node")}
    assert np.array_equal(masks["tumor"], DISC)
    assert masks["cyst"].sum() == 21 and masks["cyst"][36:39, 2:9].all()
    assert masks["plate"].sum() == 80 and masks["plate"][12:32, 18:22].all()
    assert np.array_equal(masks["node"], np.hypot(COLUMNS + 0.5 - 50, ROWS + 0.5 - 8) < 5)
    assert [shape.name for shape in first.shapes] == ["liver", "cyst", "plate", "node", "tumor"]  # by z_order


def test_the_zip_file_that_cvat_exports(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations.xml", document())
        archive.writestr("images/../../p1/s1.png", b"")
    assert len(read_file(tmp_path / "a.zip", "cvat")[0].shapes) == 5


MASK = '<mask label="a" rle="{}" left="{}" top="1" width="3" height="2" />'
BOMB = """<?xml version="1.0"?>
<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;&b;">]>
<annotations><image name="&c;" width="3" height="4" /></annotations>"""
BAD = {
    "cut short": (document()[:900], r"damaged \(not XML"),
    "something else": ("<html></html>", "not an annotation file"),
    "entities": (BOMB, "declares entities"),
    "a file of this machine": (
        BOMB.replace('<!ENTITY b "ha">', '<!ENTITY b SYSTEM "file:///etc/passwd">'),
        "declares entities",
    ),
    "deep": ("<annotations>" + "<a>" * 200, "nested too deeply"),
    "no image": ("<annotations></annotations>", "no image in it"),
    "a video": ('<annotations><track id="0" label="a"></track></annotations>', "export it as .CVAT for images 1.1."),
    "no size": (document(image='id="0" name="a.png" width="60"'), "a.png: height is missing"),
    "no name": (document(image='id="0" width="60" height="40"'), "image: name is missing"),
    "no label": (document('<box xtl="1" ytl="1" xbr="3" ybr="3" />'), "p1/s1.png, box: label is missing"),
    "not a number": (
        document('<box label="a" xtl="one" ytl="1" xbr="3" ybr="3" />'),
        "xtl: invalid number .found 'one'",
    ),
    "nan": (document('<ellipse label="a" cx="nan" cy="1" rx="3" ry="3" />'), "cx: invalid number .found 'nan'"),
    "negative": (document('<ellipse label="a" cx="2" cy="1" rx="-3" ry="3" />'), "negative radius .found -3"),
    "one number": (document('<polygon label="a" points="1,2;3;4,5" />'), "points: expected x,y .found '3'"),
    "too few runs": (document(MASK.format("1, 2", 0)), r"do not fill 3x2 pixels \(found 3\)"),
    "negative run": (document(MASK.format("-1, 7", 0)), r"do not fill 3x2 pixels"),
    "fraction": (document(MASK.format("1, 5", 0.5)), "left: invalid number .found '0.5'"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_one_line(tmp_path, kind):
    text, words = BAD[kind]
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(InputError, match=words) as error:
        read_file(tmp_path / "a.xml")
    assert str(error.value).startswith(f"{tmp_path}/a.xml: ") and len(str(error.value).splitlines()) == 1


def test_bad_zip_files(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("annotations.xml", document())
    whole = path.read_bytes()
    for data, words in ((whole[:-30], "damaged zip file"), (whole.replace(b"liver", b"river"), "damaged zip file")):
        path.write_bytes(data)
        with pytest.raises(InputError, match=f"{path}: {words}"):
            read_file(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images/a.png", b"")
    with pytest.raises(InputError, match="no annotations in this zip file"):
        read_file(path)
