"""Which class is which: by names, wherever both sides have them."""

import pytest

from eca_jax.weights.class_names import class_names, imagenet_names, label_map


def test_names_are_imagenets_or_those_beside_the_weights():
    """Identifiers are in the order that all published weights have, which is alphabetical."""
    names = imagenet_names()
    assert len(names) == len(set(names.values())) == 1000
    assert list(names) == sorted(names)
    assert (names["n01440764"], names["n02123045"], names["n15075141"]) == ("tench", "tabby", "toilet tissue")
    assert class_names(None, 1000) == list(names.values())
    assert class_names(None, 10) is None
    assert class_names(["n02123045", "dog"], 3) == ["tabby", "dog", "2"]


@pytest.mark.parametrize(
    ("of_data", "stored", "num_classes", "labels"),
    [
        (["n02979186", "n03000684"], None, 1000, [482, 491]),  # two folders of ImageNet's
        (["cassette player", "chain saw"], None, 1000, [482, 491]),
        (["dog", "cat"], ["cat", "dog"], 2, [1, 0]),
        (["dog"], ["cat", "dog", "zebra"], 4, [1]),
        (["cat", "dog"], None, 2, None),  # nothing tells the weights' names
        (["0", "1"], None, 1000, None),  # a thousand classes that are not ImageNet's
    ],
)
def test_labels_go_by_name(of_data, stored, num_classes, labels):
    assert label_map(of_data, stored, num_classes) == labels


@pytest.mark.parametrize(
    ("of_data", "stored", "num_classes", "message"),
    [
        (["dog", "zebra"], ["cat", "dog"], 2, r"know no class 'zebra'; theirs are cat, dog"),
        (
            ["n02979186", "zebu", "okapi"],
            None,
            1000,
            r"know no class 'zebu' \(and 1 more\); theirs are n01440764, .*, \.\.\.",
        ),
    ],
)
def test_a_class_that_the_weights_do_not_know_is_named(of_data, stored, num_classes, message):
    with pytest.raises(ValueError, match=message):
        label_map(of_data, stored, num_classes)
