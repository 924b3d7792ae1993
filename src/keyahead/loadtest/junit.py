"""A verdict as JUnit XML, which every CI system shows: a case for each objective."""

from __future__ import annotations

import xml.etree.ElementTree as ET  # only written, never parsed

from keyahead.loadtest.verdict import Status, Verdict

_ELEMENTS = {Status.FAIL: "failure", Status.INCONCLUSIVE: "error", Status.INVALID: "error", Status.NOT_MEASURED: "skipped"}


def to_xml(verdict: Verdict, duration_s: float) -> str:
    """The document."""
    counts = {element: sum(_ELEMENTS.get(case.status) == element for case in verdict.cases) for element in ("failure", "error", "skipped")}
    suite = ET.Element(
        "testsuite",
        name="keyahead.loadtest",
        tests=str(len(verdict.cases)),
        failures=str(counts["failure"]),
        errors=str(counts["error"]),
        skipped=str(counts["skipped"]),
        time=f"{duration_s:.1f}",
    )
    for case in verdict.cases:
        element = ET.SubElement(suite, "testcase", classname="keyahead.loadtest", name=case.name, time="0")
        properties = ET.SubElement(element, "properties")
        for name, value in (("value", case.value), ("bound", case.bound), ("status", case.status.value)):
            ET.SubElement(properties, "property", name=name, value=str(value))
        if case.status in _ELEMENTS:
            ET.SubElement(element, _ELEMENTS[case.status], message=case.explanation, type=case.status.value)
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
