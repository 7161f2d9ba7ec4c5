"""Documents as PBS and Torque print them, and as they break."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.core.errors import HubError, Unreachable
from batchhub.schedulers import pbs_read
from batchhub.schedulers.pbs_read import read_dsv, read_full_text, read_json, read_xml
from tests.recordings.openpbs.recorded import recorded


def record(state: str = "R", **more: str) -> dict[str, object]:
    return {"job_state": state, **more}


def document(jobs: str) -> str:
    return '{\n    "timestamp":1,\n    "Jobs":{\n' + jobs + "\n    }\n}\n"


def test_numbers_and_bare_words_stay_what_was_printed() -> None:
    _, done = recorded("openpbs", "poll_numbers_json")
    jobs = read_json(done.out, "Jobs").found
    assert jobs["38.pbshead"]["Job_Name"] == "123"
    assert jobs["38.pbshead"]["project"] == "1e5"
    assert jobs["38.pbshead"]["Variable_List"]["N5"] == "inf"
    assert jobs["38.pbshead"]["Variable_List"]["N8"] == ".5"


def test_bare_words_inside_text_are_left_alone() -> None:
    text = '{"Jobs":{"1.a":{"comment":"x:nan, y","Account_Name":nan,"job_state":"R","n":-inf}}}'
    assert read_json(text, "Jobs").found["1.a"] == {
        "comment": "x:nan, y",
        "Account_Name": "nan",
        "job_state": "R",
        "n": "-inf",
    }


def test_raw_quotes_of_pbs_19_spoil_no_other_record() -> None:
    text = document(
        '        "1.a":{\n            "job_state":"R",\n            "Variable_List":{\n'
        '                "JS":"{"a":[1,2]}",\n                "BS":"c\\d"\n            },\n'
        '            "comment":"say "hi""\n        },\n'
        '        "2.a":{\n            "job_state":"Q"\n        }'
    )
    jobs = read_json(text, "Jobs").found
    assert jobs["1.a"]["comment"] == 'say "hi"'
    assert jobs["1.a"]["Variable_List"]["BS"] == "c\\d"
    assert jobs["2.a"]["job_state"] == "Q"


def test_a_newline_in_a_broken_record_is_left_out() -> None:
    text = document(
        '        "1.a":{\n            "job_state":"R",\n            "V":{\n                "Q":"a"b",\n'
        '                "M":"line1\nline2"\n            }\n        }'
    )
    assert read_json(text, "Jobs").found["1.a"]["V"] == {"Q": 'a"b'}


def test_a_record_that_cannot_be_mended_is_a_bad_row() -> None:
    text = document(
        '        "1.a":{\n            "job_state":"R"\n            "queue":"x"\n        },\n'
        '        "2.a":{\n            "job_state":"Q"\n        }'
    )
    records = read_json(text, "Jobs")
    assert list(records.found) == ["2.a"]
    assert records.bad == ("1.a",)


def test_a_forged_second_record_is_not_believed() -> None:
    forged = '{"Jobs":{"1.a":{"job_state":"R"},"2.a":{"job_state":"R","V":{"A":"x"}},"1.a":{"job_state":"F"}}}'
    records = read_json(forged, "Jobs")
    assert list(records.found) == ["2.a"]
    assert records.bad == ("1.a",)


def test_a_record_forged_by_indentation_is_not_believed() -> None:
    text = document(
        '        "1.a":{\n            "job_state":"R"\n        },\n'
        '        "2.a":{\n            "V":"a"b\n        },\n        "1.a":{\n            "job_state":"F"\n        }'
    )
    assert list(read_json(text, "Jobs").found) == ["2.a"] or "1.a" not in read_json(text, "Jobs").found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "qstat: something",
        "}{",
        '{"Jobs":{"1.a":{"job_state":"R"',
        '{"Jobs":[]}',
        '{"Jobs":"x"}',
        "{" * 100_000 + "}",
        '{"a":' * 100_000 + "}" * 100_000,
        '{\n  "Jobs":{\n  x\n  }\n}\n',
    ],
)
def test_a_document_that_cannot_be_read_is_unreachable(text: str) -> None:
    with pytest.raises(Unreachable):
        read_json(text, "Jobs")


def test_a_skeleton_is_present_without_its_section() -> None:
    _, done = recorded("openpbs", "list_empty_json")
    records = read_json(done.out, "Jobs")
    assert not records.present
    assert records.found == {}


def test_text_around_the_document_is_cut_off() -> None:
    assert read_json('motd\n{"Jobs":{"1.a":{"job_state":"R"}}}\nbye', "Jobs").found == {"1.a": {"job_state": "R"}}


def test_a_record_that_is_no_mapping_is_a_bad_row() -> None:
    records = read_json('{"Jobs":{"1.a":null,"2.a":{"job_state":"R"}}}', "Jobs")
    assert (list(records.found), records.bad) == (["2.a"], ("1.a",))


@pytest.mark.parametrize("name", ["hist_poll_x_exit3", "poll_pending_never"])
def test_dsv_reads_as_json_does(name: str) -> None:
    _, done = recorded("openpbs", f"{name}_dsv")
    ((job, found),) = read_dsv(done.out).found.items()
    assert job.endswith(".pbshead")
    assert found["queue"] == "workq"
    if name == "hist_poll_x_exit3":
        _, other = recorded("openpbs", f"{name}_json")
        expected = read_json(other.out, "Jobs").found[job]
        for key in ("job_state", "Exit_status", "comment", "Resource_List", "resources_used", "exec_host", "substate"):
            assert found[key] == expected[key]


def test_dsv_separators_in_values_and_bad_lines() -> None:
    records = read_dsv("Job Id: 1.a|Job_Name=x\\|y|job_state=R\nrubbish\n\nJob Id:|a=b\n")
    assert records.found == {"1.a": {"Job_Name": "x|y", "job_state": "R"}}
    assert len(records.bad) == 2


@pytest.mark.parametrize("name", ["poll_pending_never_text", "poll_running_text"])
def test_folded_text_is_joined_in_the_middle_of_words(name: str) -> None:
    _, done = recorded("openpbs", name)
    ((job, found),) = read_full_text(done.out).found.items()
    if name == "poll_running_text":
        assert job == "1000.pbshead"
        assert found["Submit_arguments"].endswith(
            "-l walltime=00:05:00 -v FOO=bar -o /home/hpcuser/poll.out -e /home/hpcuser/poll.err"
        )
        assert found["Resource_List"]["walltime"] == "00:05:00"
    else:
        assert found["comment"] == "Can Never Run: Insufficient amount of resource: ncpus (R: 100 A: 6 T: 6)"


def test_a_newline_in_a_value_continues_it() -> None:
    records = read_full_text(
        "noise\nJob Id: 1.a\n    comment = one\ntwo\n    job_state = R\n\nJob Id: 2.a\n    job_state = Q\n"
    )
    assert records.found == {"1.a": {"comment": "one\ntwo", "job_state": "R"}, "2.a": {"job_state": "Q"}}
    assert records.bad == ("noise",)


def test_a_plain_and_a_dotted_attribute_of_one_name() -> None:
    records = read_full_text("Job Id: 1.a\n    x = 1\n    x.y = 2\n    job_state = R\n")
    assert records.found["1.a"] == {"x": "1", "job_state": "R"}


XML = "<Data><Job><Job_Id>1.srv</Job_Id><job_state>R</job_state><Resource_List><walltime>10</walltime></Resource_List></Job></Data>"


def test_xml() -> None:
    assert read_xml(XML).found == {"1.srv": {"Job_Id": "1.srv", "job_state": "R", "Resource_List": {"walltime": "10"}}}


def test_xml_of_nodes_beside_jobs() -> None:
    text = XML.replace("</Data>", "<Node><name>n1</name></Node></Data>")
    assert list(read_xml(text, "Node", "name").found) == ["n1"]


def test_several_xml_documents_follow_one_another() -> None:
    text = f"<?xml version='1.0'?>\n{XML}\n{XML.replace('1.srv', '2.srv')}\n"
    assert list(read_xml(text).found) == ["1.srv", "2.srv"]


def test_an_xml_record_that_cannot_be_read_spoils_no_other() -> None:
    bad = "<Job><Job_Id>2.srv</Job_Id><a>&nosuch;</a></Job>"
    huge = f"<Job><Job_Id>3.srv</Job_Id><a>{'x' * 1_100_000}</a></Job>"
    records = read_xml(XML.replace("</Data>", f"{bad}{huge}<Job><x>y</x></Job></Data>"))
    assert list(records.found) == ["1.srv"]
    assert len(records.bad) == 3


def test_control_characters_in_a_name_do_not_break_xml() -> None:
    assert read_xml(XML.replace("R</job_state>", "R</job_state><n>\x01</n>")).found["1.srv"]["n"] == "?"


@pytest.mark.parametrize(
    "text",
    [
        XML[:-3],
        XML[:60],
        "<Data>",
        XML + "<Data><Job>",
        "<!DOCTYPE Data [<!ENTITY a 'b'>]>" + XML,
        XML.replace("<Data>", "<!entity x>"),
        "no xml",
        XML.replace("</Job>", ""),
    ],
)
def test_an_unfinished_or_hostile_xml_document_is_unreachable(text: str) -> None:
    with pytest.raises(Unreachable):
        read_xml(text)


def test_no_xml_at_all_is_no_record() -> None:
    assert not read_xml("  \n").present


def test_a_document_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pbs_read, "MAX_DOCUMENT", 10)
    for reader in (lambda text: read_json(text, "Jobs"), read_xml):
        with pytest.raises(Unreachable):
            reader(XML + "{}")


_SCRAPS = st.lists(
    st.sampled_from(
        ['"', "{", "}", "\n", ":", ",", "[", "]", '"Jobs":{', '        "1.a":{', "\\", "nan", "<Data>", "<Job>", "</Job>",
         "</Data>", "<Job_Id>1.a</Job_Id>", "Job Id: 1.a", "|", "=", "\t", "    a = b", "\x00", "é", '"job_state":"R"']
    ),
    max_size=30,
).map("".join)  # fmt: skip


@given(st.text() | _SCRAPS)
def test_garbage_raises_nothing_but_our_errors(text: str) -> None:
    for reader in (lambda t: read_json(t, "Jobs"), read_xml, read_dsv, read_full_text):
        try:
            reader(text)
        except HubError:
            continue


@given(st.dictionaries(st.from_regex(r"\d{1,6}\.srv", fullmatch=True), st.text(max_size=20), max_size=5))
def test_any_text_in_a_value_comes_back(names: dict[str, str]) -> None:
    text = json.dumps({"Jobs": {job: record(Job_Name=name) for job, name in names.items()}})
    found = read_json(text, "Jobs").found
    assert {job: found[job]["Job_Name"] for job in found} == names
