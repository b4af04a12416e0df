"""What is printed: any name, to any terminal, whether or not somebody reads it."""

import io
import os
import subprocess
import sys

import pytest
from drawings import disc_slice, write_image
from running import ROOT

from common.streams import SafeStream, as_utf8, on_own_lines, one_line, print_lines, printable

ODD = "caf\u00e9 \U0001f600 \x1b[2J\rend"  # a letter, an emoji, and codes that clear a terminal


def test_control_characters_are_shown_escaped():
    assert printable("a\x1b[2J\r\x7f\x9b\u202e\tb\n") == "a\\x1b[2J\\r\\x7f\\x9b\\u202e\tb\n"
    assert one_line("caf\u00e9\udce9\n") == "caf\u00e9\\udce9\\n"
    assert on_own_lines("2 files:\n  a\nb.png\n  c.png") == "2 files:\n  a\\nb.png\n  c.png"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("caf\u00e9", "caf\u00e9"), ("caf\udcc3\udca9", "caf\u00e9"), ("caf\udce9", "caf\\xe9"), ("\ud800", "\\ud800")],
)
def test_text_for_a_file_of_utf_8(text, expected):
    """A name as UTF-8 or POSIX locales read it, one in Latin-1, and a character that no file name can contain."""
    assert as_utf8(text) == expected


def test_a_stream_prints_any_name():
    raw = io.TextIOWrapper(io.BytesIO(), "ascii", errors="backslashreplace")
    stream = SafeStream(raw)
    print("case\udce9", ODD, file=stream, flush=True)
    assert raw.buffer.getvalue() == b"case\\udce9 caf\\xe9 \\U0001f600 \\x1b[2J\\rend\n"
    assert stream.encoding == "ascii" and not stream.isatty()


NOISE = """
import os, sys
from common import devices, streams
streams.prepare()
for modules in (True, False):
    with devices.silenced_libraries(modules):
        os.write(2, b"noise ")
        print("a module", modules, file=sys.stderr)
os.write(2, b"later")
"""


def test_what_libraries_print_can_be_discarded_without_what_modules_print():
    result = subprocess.run([sys.executable, "-c", NOISE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stderr == "a module False\nlater"


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """Masks in case folders with odd names, and the command that scores them against themselves."""
    root = tmp_path_factory.mktemp("streams")
    for number, name in enumerate(("case_\udce9", "case_\U0001f600", "case_\x1b[2Jx\ny", "case_=cmd|' calc'!A0")):
        write_image(root / "masks" / name / "0001.png", disc_slice(24, number)[1])
    return root / "masks"


def in_shell(masks, script, flags, **environment):
    """Run a script in the folder of masks, with flags and redirections as in a shell."""
    script = f'"{sys.executable}" "{ROOT / script}" --predicted . {flags}'
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | environment
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {script}"], cwd=masks, env=environment, capture_output=True, check=False
    )


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
@pytest.mark.parametrize(
    "how",
    [
        {"PYTHONIOENCODING": "cp1252", "after": "| head -c 1"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "after": "2>&-"},
        {"PYTHONIOENCODING": "ascii", "after": ">/dev/full"},
        {"after": "<&- >&- 2>&-"},
    ],
    ids=str,
)
def test_scores_are_written_whoever_reads_along(masks, tmp_path, how):
    flags = f'--truth . --output "{tmp_path / "scores"}" {how.get("after", "")}'
    result = in_shell(masks, "evaluate.py", flags, **{name: value for name, value in how.items() if name != "after"})
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    assert b"Traceback" not in said and b"\x1b" not in said
    assert (tmp_path / "scores" / "report.html").is_file() and (tmp_path / "scores" / "scores.csv").is_file()


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_messages_show_odd_names_escaped(masks):
    result = in_shell(masks, "submission.py", "--predicted '\x1b[2J\ngone'", PYTHONIOENCODING="ascii")
    assert result.returncode == 1 and b"\\x1b[2J\\ngone does not exist" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    result = in_shell(masks, "submission.py", "--kind '\x1b[2J\nbest'")
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1 and b"\x1b" not in result.stderr


def test_a_line_feed_in_a_name_starts_no_line_of_standard_output(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdout", SafeStream(sys.stdout, own_lines=True))
    exec(  # as a script and its modules print
        r"""print("wrote a\nb", "c\n  d", f"{'e' * 5000}\n", "\nf", sep="\n")""",
        {"__name__": "__main__"},
    )
    print_lines("\ntable\n1  2")
    said = ["wrote a\\nb", "c", "  d", "e" * 5000, "", "\\nf", "", "table", "1  2"]
    assert capsys.readouterr().out.splitlines() == said


def test_what_other_code_prints_keeps_its_lines(capsys, monkeypatch):
    """Such as the summary of a user's own network."""
    monkeypatch.setattr(sys, "stdout", SafeStream(sys.stdout, own_lines=True))
    print("Model: mine\nlayer 1\x1b[1m")
    assert capsys.readouterr().out == "Model: mine\nlayer 1\\x1b[1m\n"


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_what_is_printed_about_a_folder_with_a_line_feed_in_its_name(masks, tmp_path):
    output = tmp_path / "scores\nall right"
    result = in_shell(masks, "evaluate.py", f"--truth . --output '{output}'")
    lines = result.stdout.decode().splitlines()
    assert result.returncode == 0 and (output / "scores.csv").is_file()
    assert lines[-1].startswith(f"wrote {tmp_path / 'scores'}\\nall right (images: 4")
    assert "images with a mask" in lines, "tables still have lines"


def test_a_long_word_in_a_message_is_shortened():
    assert on_own_lines(f"{'a' * 99999}.png: missing") == f"{'a' * 60}...: missing"
    assert on_own_lines("a" * 5000) == f"{'a' * 60}..."
    path = "/".join(["a" * 200] * 20)
    assert on_own_lines(f"{path}: missing") == f"{path}: missing"
