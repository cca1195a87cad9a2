"""A share of what tests/promises.py tries as often as one likes, and .ci/weekly in full: a saving that is killed, and files with something changed."""
import promises


def test_a_saving_killed_before_each_operation(tmp_path):
    assert promises.operations(tmp_path, 2, ("save",))["save"].keys() >= {"old", "refused"}


def test_what_is_changed_is_read_or_refused_in_a_sentence(tmp_path):
    found, failures = promises.mutations(tmp_path, 4000)
    assert not failures and all(sum(outcomes.values()) > 5 for outcomes in found.values())
