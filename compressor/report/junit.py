"""A report as JUnit XML: one test case a measurement, so that a CI server draws it without knowing us.

limit missed        failure, with value and limit
fallback            failure under `--strict`, else written to the suite's output
no limit            a test case that passes; its number is in its output
"""

from __future__ import annotations

from xml.etree import ElementTree

from compressor.report.report import Measurement, Report
from compressor.report.tables import number

SUITE = "compress"


def render(report: Report, *, strict: bool) -> str:
    """The XML document."""
    suite = ElementTree.Element("testsuite", name=SUITE)
    for one in report.measurements:
        _case(suite, one)
    for line in report.fallbacks if strict else ():
        case = ElementTree.SubElement(suite, "testcase", classname=f"{SUITE}.fallbacks", name=line)
        ElementTree.SubElement(case, "failure", message="fell back, and --strict counts each")
    failures = len(suite.findall("testcase/failure"))
    suite.attrib |= {"tests": str(len(suite.findall("testcase"))), "failures": str(failures), "errors": "0"}
    if report.fallbacks and not strict:
        ElementTree.SubElement(suite, "system-out").text = "\n".join(report.fallbacks)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, one: Measurement) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=f"{SUITE}.measurements", name=one.name)
    value = number(one.value, one.unit)
    if not one.passed and one.limit is not None:
        limit = f"{value} is not {one.sense} {number(one.limit, one.unit)}"
        ElementTree.SubElement(case, "failure", message=limit).text = one.note
    ElementTree.SubElement(case, "system-out").text = f"{value} {one.note}".strip()
