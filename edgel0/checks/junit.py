"""Verdicts as JUnit XML, which every CI service shows: one test case for each limit.

It keeps to both schemas in use: that of Ant's JUnit task (JUnit.xsd), which wants a time and a host, and that of
Jenkins (junit-10.xsd). The time is the first of 1970, so that the same verdicts give the same file.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from edgel0.checks.wording import advice, amount, label, limit_of
from edgel0.types import Verdict


def as_junit(verdicts: Sequence[Verdict]) -> str:
    """Return ``testsuites``: a failure where a limit is exceeded, an error where the figure is missing.

    A limit of level ``warn`` passes and tells of its excess in ``system-out``; one of level ``off`` is skipped.
    """
    failing = [verdict for verdict in verdicts if verdict.status == "FAIL"]
    errors = sum(verdict.value is None for verdict in failing)
    counts = {"tests": len(verdicts), "failures": len(failing) - errors, "errors": errors}
    root = Element("testsuites")
    about = {"name": "edgel0 check", "package": "edgel0", "id": "0", "timestamp": "1970-01-01T00:00:00"}
    suite = SubElement(root, "testsuite", {**about, "hostname": "localhost", "time": "0"})
    suite.attrib.update({key: str(count) for key, count in counts.items()})
    skipped = sum(verdict.status == "off" for verdict in verdicts)
    if skipped:  # the older of Ant's schemas knows no skipped tests
        suite.set("skipped", str(skipped))
    SubElement(suite, "properties")
    for verdict in verdicts:
        _case(suite, verdict)
    warned = [f"warning: {v.limit.name}: {advice(v)}" for v in verdicts if v.status == "warn"]
    SubElement(suite, "system-out").text = xml_text("\n".join(warned))
    SubElement(suite, "system-err")
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode")


def xml_text(text: str) -> str:
    """Show what XML 1.0 cannot hold by its number."""
    return "".join(letter if _holds(letter) else f"\\x{ord(letter):02x}" for letter in text)


def _holds(letter: str) -> bool:
    """Tell whether a letter is a Char of XML 1.0 and no control character."""
    code = ord(letter)
    return (
        letter in "\t\n" or 0x20 <= code < 0x7F or 0xA0 <= code < 0xD800 or 0xE000 <= code < 0xFFFE or code >= 0x10000
    )


def _case(suite: Element, verdict: Verdict) -> None:
    """Add the test case of one verdict."""
    limit = verdict.limit
    bound = limit_of(verdict)
    told = f"{label(limit)} {'at least' if limit.bound in ('min', 'decrease') else 'at most'} "
    name = told + (amount(limit, bound) if bound is not None else limit.text)
    case = SubElement(suite, "testcase", {"classname": xml_text(limit.name), "name": xml_text(name), "time": "0"})
    if verdict.status == "off":
        SubElement(case, "skipped")
    elif verdict.status == "FAIL":
        kind = "error" if verdict.value is None else "failure"
        inner = SubElement(case, kind, {"message": xml_text(verdict.reason), "type": limit.metric})
        inner.text = xml_text(advice(verdict))
