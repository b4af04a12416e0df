"""XML from anyone: without entities, which could read other files or fill the memory."""

from xml.etree import ElementTree
from xml.parsers import expat

from common.annotations.shapes import ADVICE
from common.errors import InputError

DEEPEST = 100  # levels of elements


def check_xml(data, path):
    """Check an XML file before anything else reads it. The document type of property lists is harmless and accepted.

    Args:
        data: bytes.
        path: Path, for messages.

    Returns:
        str: name of the root element.

    Raises:
        InputError: if the file is damaged, declares entities, or is nested too deeply.
    """
    open_elements, root = 0, ""

    def start(name, _):
        nonlocal open_elements, root
        root = root or name
        open_elements += 1
        if open_elements > DEEPEST:
            raise InputError(f"{path}: damaged (elements nested too deeply); {ADVICE}")

    def end(_):
        nonlocal open_elements
        open_elements -= 1

    def refuse(*_):
        raise InputError(f"{path}: declares entities, which annotation programs do not; do not use this file")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.EntityDeclHandler = start, end, refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise InputError(f"{path}: damaged (not XML: {error}); {ADVICE}") from None
    return root


def parse_xml(data):
    """Root element of a file that `check_xml` accepted."""
    return ElementTree.fromstring(data)
