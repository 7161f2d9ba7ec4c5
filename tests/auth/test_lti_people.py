"""Names, groups and rights of people from a course."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchhub.auth.base import safe_name
from batchhub.auth.lti_people import (
    MOST_ROLES,
    ROLE_WORDS,
    Learner,
    Source,
    groups_of,
    is_admin,
    name_of,
    name_of_subject,
)

IN_COURSE = "http://purl.imsglobal.org/vocab/lis/v2/membership"
CAMPUS = Source("Campus", prefix="c-", trusts_email=True)
ANN = Learner("ann7", "42", email="ann@example.org", sourcedid="s1", custom={"login": "ann", "list": ["x"]})


@pytest.mark.parametrize("subject", ["7", "ann", "535fa085f22b4655f48cd5a36a9215f64c062838", "a_b.c@d+e-f"])
def test_a_plain_id_is_the_name(subject):
    assert name_of_subject(subject) == subject


@pytest.mark.parametrize("subject", ["Ann", "x-ann", "-a", "a b", "a/../b", "a" * 65, "ü", "", "\ud800"])
def test_any_other_is_hashed(subject):
    name = name_of_subject(subject)
    assert name.startswith("x-")
    assert len(name) == 22
    assert name != subject


@given(st.text(max_size=300), st.text(max_size=300))
def test_no_two_ids_have_the_same_name(one, other):
    """Not even once names are put into lower case."""
    names = name_of_subject(one), name_of_subject(other)
    assert (one == other) == (names[0].lower() == names[1].lower())
    assert all(safe_name(name) for name in names)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("sub", "c-ann7"),
        ("email", "c-ann@example.org"),
        ("lis_person_sourcedid", "c-s1"),
        ("custom.login", "c-ann"),
        ("custom.list", None),
        ("custom.other", None),
        ("other", None),
    ],
)
def test_what_becomes_the_name(key, name):
    assert name_of(ANN, key, CAMPUS) == name


def test_an_address_that_nobody_vouches_for_is_no_name():
    assert name_of(ANN, "email", Source("Other")) is None


@pytest.mark.parametrize("said", ["", "$User.username", "a" * 256])
def test_what_is_not_said_is_no_name(said):
    assert name_of(Learner("1", sourcedid=said), "lis_person_sourcedid", CAMPUS) is None


@pytest.mark.parametrize(
    ("role", "word"),
    [
        (f"{IN_COURSE}#Instructor", "instructor"),
        (f"{IN_COURSE}/Instructor#TeachingAssistant", "teachingassistant"),
        ("Learner", "learner"),
        ("urn:lti:role:ims/lis/ContentDeveloper", "contentdeveloper"),
    ],
)
def test_roles_in_the_course(role, word):
    assert groups_of(Learner("1", "42", (role,)), CAMPUS) == ("course:c-42", f"course:c-42:{word}")


@pytest.mark.parametrize(
    "role",
    [
        "http://purl.imsglobal.org/vocab/lis/v2/institution/person#Instructor",
        "http://purl.imsglobal.org/vocab/lis/v2/system/person#Administrator",
        "http://purl.imsglobal.org/vocab/lis/v2/membershipx#Instructor",
        f"{IN_COURSE}/Learner#Instructor",
        f"{IN_COURSE}#instructor",
        "urn:lti:instrole:ims/lis/Instructor",
        "urn:lti:sysrole:ims/lis/SysAdmin",
        "instructor",
        "",
    ],
)
def test_roles_elsewhere_are_none_here(role):
    assert groups_of(Learner("1", "42", (role,)), CAMPUS) == ("course:c-42",)


@pytest.mark.parametrize(
    ("course", "group"),
    [
        ("42:instructor", "course:42%3Ainstructor"),
        ("course-v1:edX+Demo+2026", "course:course-v1%3AedX+Demo+2026"),
        ("a/b c%3A", "course:a%2Fb%20c%253A"),
    ],
)
def test_an_id_cannot_look_like_a_role_in_another_course(course, group):
    assert groups_of(Learner("1", course), Source("One")) == (group,)


@given(st.text(min_size=1, max_size=60), st.text(min_size=1, max_size=60), st.sampled_from(sorted(ROLE_WORDS)))
def test_no_two_courses_share_a_group(one, other, role):
    found = [set(groups_of(Learner("1", course, (role,)), Source("One"))) for course in (one, other)]
    assert (one == other) or found[0].isdisjoint(found[1])


def test_without_a_course_there_is_no_group():
    assert groups_of(Learner("1", "", ("Instructor",)), CAMPUS) == ()


def test_roles_are_bounded():
    roles = ("x",) * MOST_ROLES + ("Instructor",)
    assert groups_of(Learner("1", "42", roles), CAMPUS) == ("course:c-42",)


def test_admins_only_by_a_role_that_was_named():
    named = Source("Campus", admin_roles=frozenset({f"{IN_COURSE}#Administrator"}))
    assert is_admin(Learner("1", roles=("Administrator",)), CAMPUS) is None
    assert is_admin(Learner("1", roles=("Administrator",)), named) is False
    assert is_admin(Learner("1", roles=(f"{IN_COURSE}#Administrator",)), named) is True
